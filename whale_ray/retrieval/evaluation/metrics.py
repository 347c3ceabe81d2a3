"""Ranking metrics: recall@K, image_recall@K and MAP@5, and what chance gives.

A rank counts from 1; 0 means that the answer is not in the list.
"""

from __future__ import annotations

import numpy as np

from whale_ray.retrieval.evaluation.score_names import query_score
from whale_ray.retrieval.search.voting import new_individual_rank

DEPTH = 5
"""Labels in an answer of Kaggle's."""


def find_ranks(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the rank of `truth` in each row of `found`; 0 if it is absent or -1.

    >>> find_ranks(np.array([[4, 2, 7], [4, 2, 7], [1, -1, -1]]), np.array([7, 3, -1])).tolist()
    [3, 0, 0]

    Args:
        found: Codes, shape (Q, R).
        truth: Codes, shape (Q,).
    """
    if not found.shape[1]:
        return np.zeros(len(found), dtype=np.int64)
    same = (found == truth[:, None]) & (truth[:, None] >= 0)
    return np.where(same.any(axis=1), same.argmax(axis=1) + 1, 0)


def are_hits(ranks: np.ndarray, cutoff: int) -> np.ndarray:
    """Return whether each rank is among the first `cutoff`, bool, shaped like `ranks`.

    Args:
        ranks: Ranks from 1; 0 for absent.
        cutoff: K.
    """
    hits: np.ndarray = (ranks > 0) & (ranks <= cutoff)
    return hits


def recall_at(ranks: np.ndarray, known: np.ndarray, cutoff: int) -> float | None:
    """Return the share of known queries whose rank is at most `cutoff`; None if no query is known.

    With ranks among individuals this is recall@K, with ranks among images image_recall@K.

    >>> recall_at(np.array([1, 3, 0, 1]), np.array([True, True, True, False]), 2)
    0.3333333333333333

    Args:
        ranks: Shape (Q,).
        known: bool, shape (Q,).
        cutoff: K.
    """
    return float(are_hits(ranks, cutoff)[known].mean()) if known.any() else None


def reciprocal_ranks(ranks: np.ndarray) -> np.ndarray:
    """Return 1 / rank of the right individual among the first five individuals, else 0. Shape (Q,).

    The unknown individual is not among them: this is the closed-set counterpart of `average_precisions`.

    >>> reciprocal_ranks(np.array([1, 4, 6, 0])).tolist()
    [1.0, 0.25, 0.0, 0.0]

    Args:
        ranks: Rank of the right individual, shape (Q,).
    """
    return np.where(are_hits(ranks, DEPTH), 1.0 / np.maximum(ranks, 1), 0.0)


def values_of_ranks(objective: str, ranks: np.ndarray, image_ranks: np.ndarray) -> np.ndarray:
    """Return the value of each query that an objective averages, float64, shape (Q,). map@5 needs a threshold instead.

    Args:
        objective: A recall or image_recall, or a score averaged over individuals.
        ranks: Rank of the right individual, shape (Q,).
        image_ranks: Rank of the first right image, shape (Q,).
    """
    name, _, cutoff = query_score(objective).partition("@")
    if name == "map":
        return reciprocal_ranks(ranks)
    return are_hits(image_ranks if name == "image_recall" else ranks, int(cutoff)).astype(np.float64)


def average_precisions(
    cosines: np.ndarray, ranks: np.ndarray, new: np.ndarray, *, threshold: float | np.ndarray | None
) -> np.ndarray:
    """Return the MAP@5 contribution of each query: 1 / rank of the right label among five labels, else 0. Shape (Q,).

    >>> cosines = np.array([[0.9, 0.4, 0.3], [0.9, 0.4, 0.3]])
    >>> average_precisions(cosines, np.array([2, 0]), np.array([False, True]), threshold=0.5).tolist()
    [0.3333333333333333, 0.5]

    Args:
        cosines: Largest cosine of the ranked individuals, shape (Q, at least 5).
        ranks: Rank of the right individual, shape (Q,).
        new: Whether the right label is the unknown individual, shape (Q,).
        threshold: The unknown individual enters before the first cosine below it; for all or by query, shape (Q,).
    """
    entry = new_individual_rank(cosines[:, :DEPTH], threshold)
    shifted = ranks + ((entry > 0) & (entry <= ranks))
    places = np.where(new, entry, shifted)
    return np.where(are_hits(places, DEPTH), 1.0 / np.maximum(places, 1), 0.0)


def chance_of_recall(individuals: np.ndarray | int, cutoff: int, *, weights: np.ndarray | None = None) -> float:
    """Return the expected recall@K of a random order of individuals, averaged over queries.

    Args:
        individuals: Number of individuals, per query or for all.
        cutoff: K.
        weights: Weight of each query in the mean, shape (Q,); None for equal weights.
    """
    return float(np.average(np.minimum(1.0, cutoff / np.asarray(individuals)), weights=weights))


def chance_of_image_recall(images: np.ndarray, gallery: np.ndarray | int, cutoff: int) -> float:
    """Return the expected image_recall@K of a random order: 1 - C(N - n, K) / C(N, K), averaged over queries.

    >>> round(chance_of_image_recall(np.array([1, 2]), gallery=4, cutoff=2), 6)
    0.666667

    Args:
        images: n, gallery images of the right individual, at least one, shape (Q,).
        gallery: N, gallery size per query or for all.
        cutoff: K.
    """
    drawn = np.arange(cutoff)
    left = np.broadcast_to(gallery, images.shape)[:, None] - drawn
    missed = np.clip((left - images[:, None]) / np.maximum(left, 1), 0.0, None).prod(axis=1)
    return float(1.0 - missed.mean())


def chance_of_map(individuals: np.ndarray | int, known_share: float, *, weights: np.ndarray | None = None) -> float:
    """Return the expected MAP@5 of a random order without the unknown individual, averaged over known queries.

    Args:
        individuals: Number of individuals, per query or for all.
        known_share: Share of all queries whose individual is in the gallery.
        weights: Weight of each query in the mean, shape (Q,); None for equal weights.
    """
    sums = np.cumsum(1.0 / np.arange(1, DEPTH + 1))
    ranked = np.minimum(DEPTH, individuals)
    return known_share * float(np.average(sums[ranked - 1] / individuals, weights=weights))
