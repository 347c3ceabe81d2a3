"""Features of all pairs of photographs: cosine, lead over the neighborhoods, rank, keypoint score."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from whale_ray.retrieval.label_quality.nearest_pairs import row_chunks
from whale_ray.retrieval.search.gallery_index import normalize_rows

NEIGHBORHOOD = 10
"""Number of nearest photographs whose mean cosine a lead is measured against."""
FEATURES = ("cosine", "lead", "rank")
LOCAL_FEATURE = "local"


def dense_features(vectors: np.ndarray, local_scores: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Return symmetric features of all pairs, each float32, shape (N, N); diagonals have no meaning.

    `cosine`; `lead`, the cosine less the mean of both photographs' mean cosine to their `NEIGHBORHOOD` nearest
    (Conneau et al., "Word translation without parallel data", ICLR 2018, section 2.3); `rank`, the mean of
    log(1 + rank) of each among the other's neighbors, 0 for the nearest; `local`, log(1 + 10 s) of the mean keypoint
    score of both directions.

    Args:
        vectors: Vectors of the photographs, shape (N, D).
        local_scores: Keypoint score of each photograph against each other, 0 or more, shape (N, N); None without.
    """
    precise = normalize_rows(vectors)
    cosines = precise @ precise.T
    count = len(cosines)
    np.fill_diagonal(cosines, -2.0)
    order = np.argsort(-cosines, axis=1, kind="stable")
    ranks = np.empty((count, count), dtype=np.float32)
    np.put_along_axis(ranks, order, np.log1p(np.arange(count, dtype=np.float32))[None, :], axis=1)
    near = neighborhood_cosines(np.take_along_axis(cosines, order[:, :NEIGHBORHOOD], axis=1))
    found = {
        "cosine": cosines,
        "lead": cosines - (near[:, None] + near[None, :]) / 2,
        "rank": (ranks + ranks.T) / 2,
    }
    if local_scores is not None:
        found[LOCAL_FEATURE] = keypoint_feature((local_scores + local_scores.T) / 2)
    return found


def candidate_features(vectors: np.ndarray, nearest: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Return the pairs of which one is among the other's nearest, and their features, each of shape (P,).

    The features are those of `dense_features` without keypoints; a photograph that is not among the nearest has the
    rank after them.

    Args:
        vectors: Vectors of the photographs, shape (N, D).
        nearest: Number of nearest photographs, 1 to N - 1.

    Returns:
        Smaller photographs, int64; larger photographs, int64; the features, float32.
    """
    order, cosines = _nearest(normalize_rows(vectors), nearest)
    count = len(order)
    rows = np.repeat(np.arange(count), nearest)
    absent = np.log1p(np.float32(nearest))
    ranks = np.tile(np.log1p(np.arange(nearest, dtype=np.float32)) - absent, count)
    near = neighborhood_cosines(cosines[:, :NEIGHBORHOOD])

    shape = (count, count)
    known = sparse.coo_array((cosines.ravel() + 3.0, (rows, order.ravel())), shape=shape).tocsr()
    pairs = sparse.triu(known.maximum(known.T), 1).tocoo()
    one_way = sparse.coo_array((ranks, (rows, order.ravel())), shape=shape).tocsr()
    both = sparse.csr_array(one_way + one_way.T)
    first, second = pairs.row.astype(np.int64), pairs.col.astype(np.int64)
    cosine = (pairs.data - 3.0).astype(np.float32)
    rank = np.asarray(both[first, second], dtype=np.float32).ravel() / 2 + absent
    return first, second, {"cosine": cosine, "lead": cosine - (near[first] + near[second]) / 2, "rank": rank}


def _nearest(vectors: np.ndarray, nearest: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest others of each unit vector and their cosines, nearest first, each of shape (N, nearest)."""
    order = np.zeros((len(vectors), nearest), dtype=np.int64)
    cosines = np.zeros((len(vectors), nearest), dtype=np.float32)
    for part in row_chunks(len(vectors), len(vectors)):
        block = vectors[part] @ vectors.T
        block[np.arange(len(block)), np.arange(len(vectors))[part]] = -2.0
        some = np.sort(np.argpartition(-block, nearest - 1, axis=1)[:, :nearest], axis=1)
        values = np.take_along_axis(block, some, axis=1)
        by_cosine = np.argsort(-values, axis=1, kind="stable")
        order[part] = np.take_along_axis(some, by_cosine, axis=1)
        cosines[part] = np.take_along_axis(values, by_cosine, axis=1)
    return order, cosines


def neighborhood_cosines(nearest: np.ndarray) -> np.ndarray:
    """Return the mean of each row of nearest cosines (N, K), the photograph itself (-2) left out, shape (N,)."""
    others = np.where(nearest > -1.5, nearest, np.nan)
    count = np.maximum(np.isfinite(others).sum(axis=1), 1)
    return np.asarray(np.nansum(others, axis=1) / count, dtype=np.float32)


def keypoint_feature(scores: np.ndarray) -> np.ndarray:
    """Return log(1 + 10 s) of keypoint scores, float32."""
    return np.asarray(np.log1p(10.0 * np.asarray(scores, dtype=np.float32)))
