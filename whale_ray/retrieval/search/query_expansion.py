"""Expansion: vectors moved towards the gallery photographs that are near them, so that neighbours speak for each other.

Knows vectors. A query is expanded by the gallery alone, never by another query, and the gallery by itself alone: what
is scored with many queries is then what a service answers to a single one.
"""

from __future__ import annotations

import numpy as np

from whale_ray.retrieval.search.gallery_index import GalleryIndex, unit
from whale_ray.retrieval.search.neighbors import find_images

ALPHA = 3.0  # the value of Radenović et al.


def expand_queries(queries: np.ndarray, index: GalleryIndex, count: int) -> np.ndarray:
    """Queries (Q, D), each the unit sum of itself and its `count` nearest gallery vectors: float16 (Q, D).

    Each gallery vector is weighted by its cosine to the query to the power of ALPHA, one at an obtuse angle by 0
    (alpha query expansion: Radenović, Tolias, Chum, TPAMI 2018, "Fine-tuning CNN image retrieval with no human
    annotation"; Chum et al., ICCV 2007). With a count of 0, or no gallery, the queries are as they were.
    """
    if not count or not len(index):
        return queries
    vectors = unit(queries)
    return _sum_up(vectors, index.vectors, *find_images(vectors, index, count))


def augment_gallery(index: GalleryIndex, count: int) -> GalleryIndex:
    """The gallery, each vector the unit sum of itself (weight 1) and its `count` nearest others, weighted as a query's.

    Database-side augmentation (Turcot and Lowe, ICCV workshops 2009; Arandjelović and Zisserman, CVPR 2012; weighted:
    Gordo et al., IJCV 2017). An image alone stays as it is. With a count of 0 the gallery is as it was.

    Cost: one search of the gallery in itself, N x N cosines of which N x `count` are held.
    """
    if not count or len(index) < 2:
        return index
    moved = _sum_up(index.vectors, index.vectors, *find_others(index, count))
    back = np.argsort(index.rows)
    return GalleryIndex(moved[back], index.names[index.codes][back])


def find_others(index: GalleryIndex, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` nearest other images of each image of the gallery: places and cosines, (N, K) each, in its order."""
    places, cosines = find_images(index.vectors, index, count + 1)
    own = places == np.arange(len(places))[:, None]
    own[:, -1:] |= ~own.any(axis=1, keepdims=True)  # among many equal images the image itself may be missing
    others = (len(places), max(places.shape[1] - 1, 0))
    return places[~own].reshape(others), cosines[~own].reshape(others)


def _sum_up(vectors: np.ndarray, others: np.ndarray, places: np.ndarray, cosines: np.ndarray) -> np.ndarray:
    """Unit sums, float16 (Q, D), of vectors (Q, D) and of those of `others` (N, D) at `places` (Q, K)."""
    total = vectors.astype(np.float64)
    for place, weight in zip(places.T, np.clip(cosines, 0.0, None).T ** ALPHA, strict=True):
        total += weight[:, None] * others[place]
    return unit(total, rounded=False).astype(np.float16)
