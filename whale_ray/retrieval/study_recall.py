"""Recall as the original study counts it: each validation image against the other validation images."""

from __future__ import annotations

import numpy as np

from whale_ray.retrieval.evaluation.metrics import find_ranks, recall_at
from whale_ray.retrieval.evaluation.score_names import CUTOFFS
from whale_ray.retrieval.search.gallery_index import GalleryIndex, normalize_rows
from whale_ray.retrieval.search.neighbor_search import find_neighbors


def study_recall(vectors: np.ndarray, *, individuals: np.ndarray, parts: np.ndarray) -> dict[str, float | None]:
    """Return study_recall@K: the share of validation images with a same-label image among their K nearest others.

    The unknown label counts as an individual, and an image that is alone under its label is a miss, as in the original
    study.

    Args:
        vectors: Shape (N, D).
        individuals: Shape (N,).
        parts: Shape (N,).
    """
    rows = np.flatnonzero(np.asarray(parts) == "val")
    labels = np.asarray(individuals, dtype=str)[rows]
    unit = normalize_rows(vectors[rows])
    index = GalleryIndex(unit, labels, ready=True)
    found = find_neighbors(unit, index, individuals=1, neighbours=CUTOFFS[-1] + 1).indices
    own = found == np.arange(len(rows))[:, None]
    own[:, -1:] |= ~own.any(axis=1, keepdims=True)
    others = found[~own].reshape(len(rows), max(found.shape[1] - 1, 0))
    codes = index.codes_of(labels)
    ranks = find_ranks(codes[others], codes)
    everyone = np.ones(len(rows), dtype=bool)
    return {f"study_recall@{cutoff}": recall_at(ranks, everyone, cutoff) for cutoff in CUTOFFS}
