"""Exact cosine search: which gallery images, and which individuals, are nearest to a query.

Knows vectors, labels and the candidates' keys. Knows nothing of votes, thresholds or scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from whale_ray.retrieval.search.exact_search import (
    ABSENT,
    Rescore,
    best_images,
    cosines_of,
    look_through,
    nearest_keys,
    places_of,
)
from whale_ray.retrieval.search.gallery_index import GalleryIndex, unit

_QUERIES = 1024  # queries searched together


@dataclass(frozen=True)
class Neighbours:
    """What a search found for Q queries, nearest first; -1 and NaN stand where there is nothing more.

    indices, cosines: (Q, K) gallery rows of the nearest images and their cosines.
    individuals: (Q, R) codes by their largest cosine: as many as asked for, and all among the K images.
    best_cosines, best_indices: (Q, R) that largest cosine and the gallery row it belongs to.
    columns: (Q, K) the column of `individuals` that an image belongs to.
    """

    indices: np.ndarray
    cosines: np.ndarray
    individuals: np.ndarray
    best_cosines: np.ndarray
    best_indices: np.ndarray
    columns: np.ndarray


def find_neighbours(
    queries: np.ndarray,
    index: GalleryIndex,
    *,
    individuals: int = 50,
    neighbours: int = 1,
    rescore: Rescore | None = None,
) -> Neighbours:
    """The nearest `neighbours` images and `individuals` distinct individuals of each query, or all there are.

    queries: (Q, D). Both numbers are at least 1. rescore: gives other scores, which then stand wherever Neighbours
    says cosines; every image of the gallery is looked at.
    """
    images, distinct = min(neighbours, len(index)), min(individuals, len(index.names))
    depth = images + 2 * distinct

    def search(vectors: np.ndarray) -> Neighbours:
        if rescore is not None:
            return _describe(*look_through(vectors, index, images, distinct, rescore), index)
        return _describe(*nearest_keys(vectors, index, images, distinct, depth), index)

    return _in_chunks(search, unit(queries))


def find_by_centroid(queries: np.ndarray, index: GalleryIndex, *, individuals: int = 50) -> Neighbours:
    """The individuals of each query by the cosine to their normalised class mean; no list of images (K = 0).

    `best_cosines` and `best_indices` are those of the nearest image, as everywhere.
    """
    distinct = min(individuals, len(index.names))

    def search(vectors: np.ndarray) -> Neighbours:
        _, means = nearest_keys(vectors, index.centroids, min(1, distinct), distinct, 2 * distinct)
        return _describe(means[:, :0], best_images(vectors, index, places_of(means)), index)

    return _in_chunks(search, unit(queries))


def find_images(vectors: np.ndarray, index: GalleryIndex, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` nearest images of each unit vector (Q, D), or all: places in the index and cosines, (Q, K) each."""
    images, distinct = min(count, len(index)), min(1, len(index.names))
    starts = range(0, max(len(vectors), 1), _QUERIES)
    parts = [
        nearest_keys(vectors[start : start + _QUERIES], index, images, distinct, images + 2)[0] for start in starts
    ]
    keys = np.concatenate(parts)
    return places_of(keys), cosines_of(keys)


def nearest_images(queries: np.ndarray, index: GalleryIndex, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest image of each given individual: cosines and gallery rows, (Q, R) each, from codes (Q, R).

    queries: (Q, D). Where a code is -1, nobody, NaN and -1 stand.
    """
    if not codes.size:
        return np.zeros(codes.shape), np.zeros(codes.shape, dtype=np.int64)
    there = codes >= 0
    keys = np.where(there, best_images(unit(queries), index, np.where(there, codes, 0)), ABSENT)
    return cosines_of(keys), np.append(index.rows, -1)[places_of(keys)]


def _in_chunks(search: Callable[[np.ndarray], Neighbours], vectors: np.ndarray) -> Neighbours:
    starts = range(0, max(len(vectors), 1), _QUERIES)
    parts = [search(vectors[start : start + _QUERIES]) for start in starts]
    if len(parts) == 1:
        return parts[0]
    return Neighbours(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(Neighbours)))


def _describe(image_keys: np.ndarray, best_keys: np.ndarray, index: GalleryIndex) -> Neighbours:
    rows = np.append(index.rows, -1)  # place -1 is nowhere
    codes = np.append(index.codes, -1)
    images, individuals = places_of(image_keys), codes[places_of(best_keys)]
    return Neighbours(
        indices=rows[images],
        cosines=cosines_of(image_keys),
        individuals=individuals,
        best_cosines=cosines_of(best_keys),
        best_indices=rows[places_of(best_keys)],
        columns=_columns(codes[images], individuals, len(index.names)),
    )


def _columns(codes: np.ndarray, individuals: np.ndarray, count: int) -> np.ndarray:
    """Where each of `codes` (Q, K) stands in its row of `individuals` (Q, R), which holds it."""
    rows = np.arange(len(codes))[:, None]
    column = np.zeros((len(codes), count + 1), dtype=np.int32)  # the last cell is of the absent
    column[rows, individuals] = np.arange(individuals.shape[1])
    return np.asarray(column[rows, codes])
