"""Alpha query expansion and database-side augmentation.

A query is expanded by the gallery alone and the gallery by itself alone, so that a query has the same score among many
queries and alone in service.
"""

from __future__ import annotations

import numpy as np

from whale_ray.retrieval.search.gallery_index import GalleryIndex, normalize_rows
from whale_ray.retrieval.search.neighbor_search import find_images

ALPHA = 3.0  # the value of Radenović et al.


def expand_queries(queries: np.ndarray, index: GalleryIndex, count: int) -> np.ndarray:
    """Return queries moved towards their nearest gallery vectors (alpha query expansion), float32, shape (Q, D).

    Each gallery vector is weighted by its cosine to the power ALPHA, negative cosines by 0. Radenović et al.,
    "Fine-tuning CNN image retrieval with no human annotation", TPAMI 2018; Chum et al., ICCV 2007.

    Args:
        queries: Unit vectors from `normalize_rows`, float32, shape (Q, D).
        index: The gallery.
        count: Number of gallery vectors added to each query; 0 returns `queries` unchanged.
    """
    if not count or not len(index):
        return queries
    return _sum_up(queries, index.vectors, *find_images(queries, index, count))


def augment_gallery(index: GalleryIndex, count: int) -> GalleryIndex:
    """Return the gallery with each vector moved towards its nearest others (database-side augmentation).

    Turcot and Lowe, ICCV workshops 2009; Arandjelović and Zisserman, CVPR 2012; weighted as in Gordo et al., IJCV 2017.
    Cost: N x N cosines, of which N x `count` are held.

    Args:
        index: The gallery.
        count: Number of vectors added to each; 0 returns the gallery unchanged.
    """
    if not count or len(index) < 2:
        return index
    moved = _sum_up(index.vectors, index.vectors, *find_others(index, count))
    back = np.argsort(index.rows)
    return GalleryIndex(moved[back], index.names[index.codes][back], ready=True)


def find_others(index: GalleryIndex, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return positions and cosines of the nearest other images of each gallery image, each of shape (N, K).

    Args:
        index: The gallery.
        count: K, at most N - 1.
    """
    places, cosines = find_images(index.vectors, index, count + 1)
    own = places == np.arange(len(places))[:, None]
    own[:, -1:] |= ~own.any(axis=1, keepdims=True)  # among many equal images the image itself may be missing
    others = (len(places), max(places.shape[1] - 1, 0))
    return places[~own].reshape(others), cosines[~own].reshape(others)


def _sum_up(vectors: np.ndarray, others: np.ndarray, places: np.ndarray, cosines: np.ndarray) -> np.ndarray:
    """Return unit sums of vectors (Q, D) and of those of `others` (N, D) at `places` (Q, K), rounded to float16.

    The result is float32, shape (Q, D), as `normalize_rows` returns stored vectors.
    """
    total = vectors.astype(np.float64)
    for place, weight in zip(places.T, np.clip(cosines, 0.0, None).T ** ALPHA, strict=True):
        total += weight[:, None] * others[place]
    return normalize_rows(normalize_rows(total, rounded=False))
