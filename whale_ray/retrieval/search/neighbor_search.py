"""Nearest-neighbor search: which gallery images and which individuals are nearest to a query."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from whale_ray.retrieval.search.exact_search import (
    ABSENT,
    Rescore,
    best_images,
    decode_cosines,
    decode_positions,
    nearest_keys,
    scan_gallery,
)
from whale_ray.retrieval.search.gallery_index import GalleryIndex

_QUERIES = 1024  # queries searched together


@dataclass(frozen=True)
class Neighbors:
    """Result of a search for Q queries, nearest first; -1 and NaN pad missing entries.

    Attributes:
        indices: Gallery rows of the nearest images, shape (Q, K).
        cosines: Their cosines, shape (Q, K).
        individuals: Codes by largest cosine, shape (Q, R); includes all among the K images.
        best_cosines: Largest cosine of each individual, shape (Q, R).
        best_indices: Gallery row of that cosine, shape (Q, R).
        columns: Column of `individuals` that each of the K images belongs to, shape (Q, K).
    """

    indices: np.ndarray
    cosines: np.ndarray
    individuals: np.ndarray
    best_cosines: np.ndarray
    best_indices: np.ndarray
    columns: np.ndarray


def find_neighbors(
    queries: np.ndarray,
    index: GalleryIndex,
    *,
    individuals: int = 50,
    neighbours: int = 1,
    rescore: Rescore | None = None,
    by_lists: bool = False,
) -> Neighbors:
    """Return the nearest images and the nearest distinct individuals of each query.

    Args:
        queries: Unit vectors from `normalize_rows`, float32, shape (Q, D).
        index: The gallery.
        individuals: Number of individuals per query, at least 1.
        neighbours: Number of images per query, at least 1.
        rescore: Replaces the cosines by other scores for the whole gallery; None keeps them.
        by_lists: As in `nearest_keys`; without effect on a search with other scores.
    """
    images, distinct = min(neighbours, len(index)), min(individuals, len(index.names))
    depth = images + 2 * distinct

    def search(vectors: np.ndarray) -> Neighbors:
        if rescore is not None:
            return _describe(*scan_gallery(vectors, index, images, distinct, rescore), index)
        return _describe(*nearest_keys(vectors, index, images, distinct, depth, by_lists=by_lists), index)

    return _in_chunks(search, queries)


def find_by_centroid(
    queries: np.ndarray, index: GalleryIndex, *, individuals: int = 50, rescore: Rescore | None = None
) -> Neighbors:
    """Return individuals by the cosine to their normalised class mean, without a list of images (K = 0).

    `best_cosines` and `best_indices` are those of the nearest image.

    Args:
        queries: Unit vectors from `normalize_rows`, float32, shape (Q, D).
        index: The gallery.
        individuals: Number of individuals per query.
        rescore: Replaces the cosines by other scores for all class means; None keeps them.
    """
    distinct = min(individuals, len(index.names))
    first = min(1, distinct)

    def search(vectors: np.ndarray) -> Neighbors:
        if rescore is None:
            _, means = nearest_keys(vectors, index.centroids, first, distinct, 2 * distinct)
        else:
            _, means = scan_gallery(vectors, index.centroids, first, distinct, rescore)
        return _describe(means[:, :0], best_images(vectors, index, decode_positions(means)), index)

    return _in_chunks(search, queries)


def find_images(vectors: np.ndarray, index: GalleryIndex, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions and cosines of the nearest images, each of shape (Q, K).

    Args:
        vectors: Unit vectors from `normalize_rows`, float32, shape (Q, D).
        index: The gallery.
        count: Number of images per query.
    """
    images, distinct = min(count, len(index)), min(1, len(index.names))
    starts = range(0, max(len(vectors), 1), _QUERIES)
    parts = [
        nearest_keys(vectors[start : start + _QUERIES], index, images, distinct, images + 2)[0] for start in starts
    ]
    keys = np.concatenate(parts)
    return decode_positions(keys), decode_cosines(keys)


def nearest_images(queries: np.ndarray, index: GalleryIndex, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the cosine and gallery row of the nearest image of given individuals, each of shape (Q, R).

    Args:
        queries: Unit vectors from `normalize_rows`, float32, shape (Q, D).
        index: The gallery.
        codes: Individuals, shape (Q, R); -1 gives NaN and -1.
    """
    if not codes.size:
        return np.zeros(codes.shape), np.zeros(codes.shape, dtype=np.int64)
    there = codes >= 0
    keys = np.where(there, best_images(queries, index, np.where(there, codes, 0)), ABSENT)
    return decode_cosines(keys), np.append(index.rows, -1)[decode_positions(keys)]


def _in_chunks(search: Callable[[np.ndarray], Neighbors], vectors: np.ndarray) -> Neighbors:
    first = search(vectors[:_QUERIES])
    if len(vectors) <= _QUERIES:
        return first
    arrays = {each.name: getattr(first, each.name) for each in fields(Neighbors)}
    # Filled part by part: a list of all parts and its concatenation would take the memory twice.
    whole = {name: np.empty((len(vectors), part.shape[1]), part.dtype) for name, part in arrays.items()}
    for start in range(0, len(vectors), _QUERIES):
        part = search(vectors[start : start + _QUERIES]) if start else first
        for name, array in whole.items():
            array[start : start + _QUERIES] = getattr(part, name)
    return Neighbors(**whole)


def _describe(image_keys: np.ndarray, best_keys: np.ndarray, index: GalleryIndex) -> Neighbors:
    rows = np.append(index.rows, -1).astype(np.int32)  # place -1 is nowhere
    codes = np.append(index.codes, -1).astype(np.int32)
    images, individuals = decode_positions(image_keys), codes[decode_positions(best_keys)]
    return Neighbors(
        indices=rows[images],
        cosines=decode_cosines(image_keys),
        individuals=individuals,
        best_cosines=decode_cosines(best_keys),
        best_indices=rows[decode_positions(best_keys)],
        columns=_columns(codes[images], individuals, len(index.names)),
    )


def _columns(codes: np.ndarray, individuals: np.ndarray, count: int) -> np.ndarray:
    """Return the column of `individuals` (Q, R) at which each of `codes` (Q, K), below `count`, occurs; int32."""
    if not codes.size:
        return np.zeros(codes.shape, dtype=np.int32)
    firsts = (count + 1) * np.arange(len(codes))[:, None]  # numbers of one row are below those of the next
    numbers = (individuals + firsts).ravel()
    order = np.argsort(numbers)
    places = np.searchsorted(numbers, (codes + firsts).ravel(), sorter=order)
    return np.asarray((order[places] % individuals.shape[1]).reshape(codes.shape), dtype=np.int32)
