"""Ranking metrics: recall@K, image_recall@K and MAP@5, their ceiling and chance, and the best threshold.

A rank counts from 1; 0 means that the answer is not in the list.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from whale_ray.retrieval.evaluation.score_names import query_score
from whale_ray.retrieval.search.gallery_index import STEPS
from whale_ray.retrieval.search.voting import new_individual_rank

_DEPTH = 5  # labels in an answer of Kaggle's
_WHOLE = 60  # 1, 1/2 … 1/5 are whole numbers of sixtieths, so that sums are exact
_DIGITS = 9  # weighted sums that differ by rounding only are equal


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
    return np.where(are_hits(ranks, _DEPTH), 1.0 / np.maximum(ranks, 1), 0.0)


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
    entry = new_individual_rank(cosines[:, :_DEPTH], threshold)
    shifted = ranks + ((entry > 0) & (entry <= ranks))
    places = np.where(new, entry, shifted)
    return np.where(are_hits(places, _DEPTH), 1.0 / np.maximum(places, 1), 0.0)


@dataclass(frozen=True)
class ThresholdSteps:
    """MAP@5 as a piecewise constant function of the threshold; `gains` count where threshold > `values`.

    Attributes:
        base: Value of each query at the lowest threshold, in sixtieths, shape (Q,).
        values: Rising thresholds, shape (E,).
        gains: Change at each threshold, in sixtieths, shape (E,).
        queries: Query of each change, shape (E,).
    """

    base: np.ndarray
    values: np.ndarray
    gains: np.ndarray
    queries: np.ndarray


def threshold_steps(cosines: np.ndarray, ranks: np.ndarray, new: np.ndarray) -> ThresholdSteps:
    """Return every step of MAP@5 as the threshold rises.

    Args:
        cosines: As in `average_precisions`.
        ranks: As in `average_precisions`.
        new: As in `average_precisions`.
    """
    lowest = np.minimum.accumulate(cosines[:, :_DEPTH], axis=1)
    width = lowest.shape[1]
    worth = np.append(_WHOLE // np.arange(1, _DEPTH + 1), 0)
    ranked = np.flatnonzero(are_hits(ranks, width) & ~new)
    present = ~np.isnan(lowest)
    next_worth = np.where(np.pad(present[:, 1:], ((0, 0), (0, 1)))[:, :width], worth[1 : width + 1], 0)
    gains = np.where(new[:, None], worth[:width] - next_worth, 0)
    gains[ranked, ranks[ranked] - 1] = worth[ranks[ranked]] - worth[ranks[ranked] - 1]
    base = np.zeros(len(ranks), dtype=np.int64)
    base[ranked] = worth[ranks[ranked] - 1]
    queries, columns = np.nonzero(present & (gains != 0))
    order = np.argsort(lowest[queries, columns], kind="stable")
    queries, columns = queries[order], columns[order]
    return ThresholdSteps(base, lowest[queries, columns], gains[queries, columns], queries)


def best_thresholds(steps: ThresholdSteps, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return, per group of queries, the threshold with the largest MAP@5 and the sum of that score in sixtieths.

    The threshold is the middle of the widest range with the best score (the lowest of equals), within [-1, 1].

    Args:
        steps: The steps of MAP@5.
        groups: Queries of each group, bool, or the weight of each query in it, float, shape (G, Q).
    """
    bases = groups @ steps.base
    if not len(steps.values):
        return np.zeros(len(groups)), bases
    last = np.append(np.diff(steps.values) > 0, True)
    gains = (groups[:, steps.queries] * steps.gains).cumsum(axis=1)[:, last]
    scores = bases[:, None] + np.concatenate([np.zeros((len(groups), 1), dtype=np.int64), gains], axis=1)
    values = steps.values[last]
    edges = np.concatenate([[min(-1.0, values[0])], values, [max(1.0, values[-1] + 1.0 / STEPS)]])
    scores = np.round(scores, _DIGITS)
    best = scores.max(axis=1)
    return np.array([_middle_of_widest(row, edges) for row in scores == best[:, None]]), best


def _middle_of_widest(best: np.ndarray, edges: np.ndarray) -> float:
    """Return the middle of the longest run of True in `best` (P,), whose pieces lie between `edges` (P + 1,)."""
    bounded = np.concatenate([[False], best, [False]])
    turns = np.flatnonzero(bounded[1:] != bounded[:-1])
    lower, upper = edges[turns[::2]], edges[turns[1::2]]
    widest = np.argmax(upper - lower)
    return float((lower[widest] + upper[widest]) / 2)


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
    sums = np.cumsum(1.0 / np.arange(1, _DEPTH + 1))
    ranked = np.minimum(_DEPTH, individuals)
    return known_share * float(np.average(sums[ranked - 1] / individuals, weights=weights))
