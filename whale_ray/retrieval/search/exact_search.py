"""Exact cosine search with deterministic ties, by matrix products and float64 rescoring.

A matrix product proposes candidates in float32. Their cosines are computed again in float64 and rounded to steps of
1e-6, so that the position of a vector in a matrix product decides no tie. Ties are ordered by individual, then by
gallery order. If a tie may extend beyond the candidates, the search deepens. Cosine and gallery position are packed
into one int64 key, so that sorting keys sorts by both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from whale_ray.retrieval.search.gallery_index import STEPS, GalleryIndex
from whale_ray.retrieval.search.nearest_images.matrix_product import nearest_candidates

Rescore = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From unit queries (q, D) and their cosines to the whole gallery (q, N), in the order of the index: other scores
(q, N) in [-1, 1], by which images are near."""

_MARGIN = 4  # steps by which a product in float32 may be wrong
_CELLS = 2**22  # numbers held at once where a block of float64 is needed
_CACHED_CELLS = 2**18  # the same where the block is gathered from the gallery: it stays in the processor's cache


def use_threads(count: int) -> None:
    """Limit searches to so many threads; BLAS and faiss would take every core, even for one query."""
    import faiss
    from threadpoolctl import threadpool_limits

    faiss.omp_set_num_threads(count)
    threadpool_limits(count, user_api="blas")


def nearest_keys(
    queries: np.ndarray, index: GalleryIndex, images: int, individuals: int, depth: int, *, by_lists: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return keys of the nearest images (Q, images) and of the nearest individuals (Q, R), one image per individual.

    Args:
        queries: Unit vectors, shape (Q, D).
        index: The gallery.
        images: Number of images per query.
        individuals: Number of individuals per query.
        depth: First number of candidates that are proposed.
        by_lists: Take the candidates of the inverted lists, if the gallery has some: their cosines are exact, but a
            nearer image may be missing.
    """
    if 16 * depth >= len(index):  # looking at all of them is then the shorter way
        return scan_gallery(queries, index, images, individuals)
    if by_lists and index.lists is not None:
        image_keys, best_keys, settled = _search_lists(queries, index, images, individuals, depth)
        depth //= 4  # an exact search begins with as few candidates
    else:
        image_keys, best_keys, settled = _search_nearest(queries, index, images, individuals, depth)
    if not settled.all():
        deeper = nearest_keys(queries[~settled], index, images, individuals, 4 * depth)
        image_keys[~settled], best_keys[~settled] = deeper
    return image_keys, best_keys


def _search_lists(
    queries: np.ndarray, index: GalleryIndex, images: int, individuals: int, depth: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return `nearest_keys` among the candidates of the inverted lists, and which queries (Q,) got enough of them."""
    assert index.lists is not None
    places = index.lists.candidates(queries, index.vectors, depth)
    keys = np.where(places < 0, ABSENT, encode_keys(_exact_cosines(queries, index, places), places))
    image_keys, best_keys = _sorted_keys(keys, index, images, individuals)
    return image_keys, best_keys, np.minimum(image_keys[:, -1], best_keys[:, individuals - 1]) > ABSENT


def _search_nearest(
    queries: np.ndarray, index: GalleryIndex, images: int, individuals: int, depth: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return `nearest_keys` among `depth` candidates, and for which queries (Q,) these suffice."""
    places, rough = nearest_candidates(queries, index.vectors, depth)
    needed = _needed(encode_keys(rough, places), index, images, individuals)
    keys = encode_keys(_exact_cosines(queries, index, places, needed), places)
    keys[np.arange(depth) >= needed[:, None]] = ABSENT
    image_keys, best_keys = _sorted_keys(keys, index, images, individuals)
    beyond = (np.ceil(rough[:, -1].astype(np.float64) * STEPS).astype(np.int64) + _MARGIN + 1) << 32
    return image_keys, best_keys, np.minimum(image_keys[:, -1], best_keys[:, individuals - 1]) >= beyond


def _needed(keys: np.ndarray, index: GalleryIndex, images: int, individuals: int) -> np.ndarray:
    """Return the number of first candidates (Q,) that can be among the nearest images or of the nearest individuals.

    The keys are those of rough cosines, which may be wrong by `_MARGIN`, in descending order.
    """
    best = _first_of_each(keys, index, individuals)
    last = np.minimum(keys[:, images - 1], best[:, individuals - 1]) >> 32
    return np.asarray(((keys >> 32) >= last[:, None] - 2 * _MARGIN - 1).sum(axis=1))


def _sorted_keys(keys: np.ndarray, index: GalleryIndex, images: int, individuals: int) -> tuple[np.ndarray, np.ndarray]:
    """Return keys of the nearest images and individuals among candidates (Q, depth)."""
    keys = np.sort(keys, axis=1)[:, ::-1]
    image_keys = keys[:, :images].copy()
    return image_keys, _limit(_first_of_each(keys, index, max(images, individuals)), image_keys, individuals)


def _exact_cosines(
    queries: np.ndarray, index: GalleryIndex, places: np.ndarray, needed: np.ndarray | None = None
) -> np.ndarray:
    """Return the float64 cosine of each query to its candidates (Q, depth); -1 beyond the `needed` first ones (Q,)."""
    cosines, (depth, features) = np.full(places.shape, -1.0), (places.shape[1], queries.shape[1])
    size = max(1, min(len(queries), _CACHED_CELLS // (depth * features)))
    gathered = np.empty(size * depth * features, dtype=np.float32)
    precise = np.empty(gathered.shape)  # both are filled again and again: new memory costs as much as the product
    for start in range(0, len(queries), size):
        part = slice(start, start + size)
        asked = queries[part].astype(np.float64)
        width = depth if needed is None else int(needed[part].max())
        shape = (len(asked), width, features)
        rows, held = (buffer[: np.prod(shape)].reshape(shape) for buffer in (gathered, precise))
        np.take(index.vectors, places[part, :width], axis=0, out=rows, mode="clip")
        held[:] = rows
        cosines[part, :width] = np.matmul(held, asked[:, :, None])[:, :, 0]
    return cosines


def _first_of_each(keys: np.ndarray, index: GalleryIndex, width: int) -> np.ndarray:
    """Return the largest key of each individual among sorted `keys`, padded to (Q, min(width, C))."""
    order = np.arange(keys.shape[1])
    grouped = np.sort((index.codes[decode_positions(keys)] << 32) + order, axis=1)
    starts = np.diff(grouped >> 32, axis=1, prepend=-1) > 0
    first = np.zeros(keys.shape, dtype=bool)
    first[np.nonzero(starts)[0], grouped[starts] & LOW] = True
    column = np.cumsum(first, axis=1) - 1
    first &= column < width
    best = np.full((len(keys), min(width, len(index.names))), ABSENT)
    best[np.nonzero(first)[0], column[first]] = keys[first]
    return best


def _limit(best_keys: np.ndarray, image_keys: np.ndarray, individuals: int) -> np.ndarray:
    """Blanks the individuals that were not asked for and have no image among the nearest ones."""
    more = best_keys[:, individuals:]
    more[more < image_keys[:, -1:]] = ABSENT
    return best_keys


def scan_gallery(
    queries: np.ndarray, index: GalleryIndex, images: int, individuals: int, rescore: Rescore | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return `nearest_keys` by scoring every gallery image, a block of queries at a time.

    Args:
        queries: Unit vectors, shape (Q, D).
        index: The gallery.
        images: Number of images per query.
        individuals: Number of individuals per query.
        rescore: Replaces the cosines by other scores; None keeps them.
    """
    width = min(max(images, individuals), len(index.names))
    image_keys = np.empty((len(queries), images), dtype=np.int64)
    best_keys = np.empty((len(queries), width), dtype=np.int64)
    for part, keys in _blocks_of_keys(queries, index, rescore):
        image_keys[part] = largest_keys(keys, images)
        best_keys[part] = largest_keys(np.maximum.reduceat(keys, index.starts, axis=1), width)
    return image_keys, _limit(best_keys, image_keys, individuals)


def _blocks_of_keys(
    queries: np.ndarray, index: GalleryIndex, rescore: Rescore | None = None
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield the keys of the whole gallery, (q, N), for blocks of queries."""
    if not len(index):
        return
    size, width = max(1, _CELLS // len(index)), max(1, _CELLS // queries.shape[1])
    for start in range(0, len(queries), size):
        block = queries[start : start + size].astype(np.float64)
        cosines = np.empty((len(block), len(index)))
        for first in range(0, len(index), width):
            cosines[:, first : first + width] = block @ index.vectors[first : first + width].astype(np.float64).T
        scores = cosines if rescore is None else rescore(block, cosines)
        yield slice(start, start + size), encode_keys(scores, np.arange(len(index)))


def best_images(queries: np.ndarray, index: GalleryIndex, codes: np.ndarray) -> np.ndarray:
    """Return the key of the nearest image of each given individual, shape (Q, R).

    Args:
        queries: Unit vectors, shape (Q, D).
        index: The gallery.
        codes: Individuals, shape (Q, R).
    """
    best = np.empty(codes.shape, dtype=np.int64)
    images = index.images_per_individual[codes].sum(axis=1)
    if 16 * images.sum() >= codes.shape[0] * len(index):
        for part, keys in _blocks_of_keys(queries, index):
            largest = np.maximum.reduceat(keys, index.starts, axis=1)
            best[part] = np.take_along_axis(largest, codes[part], axis=1)
        return best
    size = max(1, _CELLS // (int(images.max()) * queries.shape[1]))
    for start in range(0, len(queries), size):
        part = slice(start, start + size)
        best[part] = _best_of_few(queries[part], index, codes[part])
    return best


def _best_of_few(queries: np.ndarray, index: GalleryIndex, codes: np.ndarray) -> np.ndarray:
    counts = index.images_per_individual[codes].ravel()
    firsts = np.cumsum(counts) - counts
    places = np.repeat(index.starts[codes].ravel() - firsts, counts) + np.arange(counts.sum())
    rows = np.repeat(np.repeat(np.arange(len(queries)), codes.shape[1]), counts)
    images, asked = index.vectors[places].astype(np.float64), queries.astype(np.float64)[rows]
    keys = encode_keys(np.einsum("nd,nd->n", images, asked), places)
    best: np.ndarray = np.maximum.reduceat(keys, firsts)
    return best.reshape(codes.shape)


ABSENT = np.iinfo(np.int64).min
LOW = 2**32 - 1


def encode_keys(cosines: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return int64 keys that sort by cosine, then by earlier position.

    Args:
        cosines: Cosines.
        places: Gallery positions, same shape.
    """
    steps = np.rint(cosines * STEPS).astype(np.int64)
    return np.asarray((steps << 32) + (LOW - places))


def decode_positions(keys: np.ndarray) -> np.ndarray:
    """Return the gallery position of each key; -1 for ABSENT."""
    return np.where(keys == ABSENT, -1, LOW - (keys & LOW))


def decode_cosines(keys: np.ndarray) -> np.ndarray:
    """Return the cosine of each key; NaN for ABSENT."""
    return np.where(keys == ABSENT, np.nan, (keys >> 32) / STEPS)


def largest_keys(keys: np.ndarray, count: int) -> np.ndarray:
    """Return the largest keys of each row in descending order.

    Args:
        keys: Shape (Q, N).
        count: Number of keys per row, at most N.
    """
    if count < keys.shape[1]:
        keys = np.partition(keys, keys.shape[1] - count, axis=1)[:, keys.shape[1] - count :]
    return np.sort(keys, axis=1)[:, ::-1]
