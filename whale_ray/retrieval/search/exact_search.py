"""Exact cosine search for its keys: the nearest images and the nearest individuals of each query, ties broken.

Knows unit vectors, keys and faiss. Knows nothing of rows, votes, thresholds or scores.

Equal things come out equal: faiss proposes candidates in float32, their cosines are computed again in float64
and rounded to steps of 1e-6, so that a vector's place in a matrix product decides no tie. Ties go by the name of
the individual, then by the order of the gallery. A tie that may go on beyond the candidates deepens the search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from whale_ray.retrieval.search.gallery_index import STEPS, GalleryIndex

Rescore = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From unit queries (q, D) and their cosines to the whole gallery (q, N), in the order of the index: other scores
(q, N) in [-1, 1], by which images are near."""

_MARGIN = 4  # steps by which faiss, in float32, may be wrong
_PRODUCT_FROM = 4  # queries from which one matrix product is the shorter way; by itself faiss takes it from 250 on
_CELLS = 2**22  # numbers held at once where a block of float64 is needed


def use_threads(count: int) -> None:
    """Has searches on the calling thread use so many threads; faiss would take every core, even for one query."""
    import faiss

    faiss.omp_set_num_threads(count)


def nearest_keys(
    queries: np.ndarray, index: GalleryIndex, images: int, individuals: int, depth: int
) -> tuple[np.ndarray, np.ndarray]:
    """Keys of the nearest images (Q, images) and, one an individual, of the nearest individuals (Q, R)."""
    if 16 * depth >= len(index):  # looking at all of them is then the shorter way
        return look_through(queries, index, images, individuals)
    image_keys, best_keys, settled = _search_nearest(queries, index, images, individuals, depth)
    if not settled.all():
        deeper = nearest_keys(queries[~settled], index, images, individuals, 4 * depth)
        image_keys[~settled], best_keys[~settled] = deeper
    return image_keys, best_keys


def _search_nearest(
    queries: np.ndarray, index: GalleryIndex, images: int, individuals: int, depth: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `nearest_keys`, among `depth` candidates of faiss; `settled` (Q,) says for whom they suffice."""
    import faiss

    faiss.cvar.distance_compute_blas_threshold = _PRODUCT_FROM * queries.shape[1]  # it counts numbers
    rough, places = faiss.knn(queries, index.vectors, depth, metric=faiss.METRIC_INNER_PRODUCT)
    keys = np.sort(keys_of(_exact_cosines(queries, index, places), places), axis=1)[:, ::-1]
    image_keys = keys[:, :images].copy()
    best_keys = _limit(_first_of_each(keys, index, max(images, individuals)), image_keys, individuals)
    beyond = (np.ceil(rough[:, -1].astype(np.float64) * STEPS).astype(np.int64) + _MARGIN + 1) << 32
    return image_keys, best_keys, np.minimum(image_keys[:, -1], best_keys[:, individuals - 1]) >= beyond


def _exact_cosines(queries: np.ndarray, index: GalleryIndex, places: np.ndarray) -> np.ndarray:
    """The cosine in float64 of each query to each of its candidates: (Q, depth) from places (Q, depth)."""
    cosines = np.empty(places.shape)
    size = max(1, _CELLS // (places.shape[1] * queries.shape[1]))
    for start in range(0, len(queries), size):
        part = slice(start, start + size)
        candidates = index.vectors[places[part]].astype(np.float64)
        cosines[part] = np.matmul(candidates, queries[part].astype(np.float64)[:, :, None])[:, :, 0]
    return cosines


def _first_of_each(keys: np.ndarray, index: GalleryIndex, width: int) -> np.ndarray:
    """The greatest key of each individual among `keys` (sorted), padded to (Q, min(width, C))."""
    order = np.arange(keys.shape[1])
    grouped = np.sort((index.codes[places_of(keys)] << 32) + order, axis=1)
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


def look_through(
    queries: np.ndarray, index: GalleryIndex, images: int, individuals: int, rescore: Rescore | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """As `nearest_keys`, by looking at every image of the gallery, a block of queries at a time."""
    width = min(max(images, individuals), len(index.names))
    image_keys = np.empty((len(queries), images), dtype=np.int64)
    best_keys = np.empty((len(queries), width), dtype=np.int64)
    for part, keys in _blocks_of_keys(queries, index, rescore):
        image_keys[part] = largest_of(keys, images)
        best_keys[part] = largest_of(np.maximum.reduceat(keys, index.starts, axis=1), width)
    return image_keys, _limit(best_keys, image_keys, individuals)


def _blocks_of_keys(
    queries: np.ndarray, index: GalleryIndex, rescore: Rescore | None = None
) -> Iterator[tuple[slice, np.ndarray]]:
    """The keys of the whole gallery, (q, N), for a few queries at a time."""
    if not len(index):
        return
    size, width = max(1, _CELLS // len(index)), max(1, _CELLS // queries.shape[1])
    for start in range(0, len(queries), size):
        block = queries[start : start + size].astype(np.float64)
        cosines = np.empty((len(block), len(index)))
        for first in range(0, len(index), width):
            cosines[:, first : first + width] = block @ index.vectors[first : first + width].astype(np.float64).T
        scores = cosines if rescore is None else rescore(block, cosines)
        yield slice(start, start + size), keys_of(scores, np.arange(len(index)))


def best_images(queries: np.ndarray, index: GalleryIndex, codes: np.ndarray) -> np.ndarray:
    """The key of the nearest image of each given individual: (Q, R) from codes (Q, R)."""
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
    keys = keys_of(np.einsum("nd,nd->n", images, asked), places)
    best: np.ndarray = np.maximum.reduceat(keys, firsts)
    return best.reshape(codes.shape)


ABSENT = np.iinfo(np.int64).min
LOW = 2**32 - 1


def keys_of(cosines: np.ndarray, places: np.ndarray) -> np.ndarray:
    """One int64 for each candidate: the greater, the nearer; the earlier place where cosines are equal."""
    steps = np.rint(cosines * STEPS).astype(np.int64)
    return np.asarray((steps << 32) + (LOW - places))


def places_of(keys: np.ndarray) -> np.ndarray:
    """The place in each key; -1 where it is ABSENT."""
    return np.where(keys == ABSENT, -1, LOW - (keys & LOW))


def cosines_of(keys: np.ndarray) -> np.ndarray:
    """The cosine in each key; NaN where it is ABSENT."""
    return np.where(keys == ABSENT, np.nan, (keys >> 32) / STEPS)


def largest_of(keys: np.ndarray, count: int) -> np.ndarray:
    """The `count` greatest of each row of keys (Q, N), or all, greatest first."""
    if count < keys.shape[1]:
        keys = np.partition(keys, keys.shape[1] - count, axis=1)[:, keys.shape[1] - count :]
    return np.sort(keys, axis=1)[:, ::-1]
