"""Scores of rankings: recall@K, image_recall@K and map@5, their ceiling and chance, and the best threshold.

Knows ranks, cosines and true answers as arrays. Knows no vectors and no table.

A *rank* counts from 1; 0 stands for an answer that is not in the list.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from whale_ray.retrieval.search.gallery_index import STEPS
from whale_ray.retrieval.search.voting import new_individual_place

CUTOFFS = (1, 2, 4, 8, 16, 32)
_DEPTH = 5  # labels in an answer of Kaggle's
_WHOLE = 60  # 1, 1/2 … 1/5 are whole numbers of sixtieths, so that sums are exact


def find_ranks(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The rank of `truth` (Q,) in each row of `found` (Q, R), both codes; 0 where it is absent or -1.

    >>> find_ranks(np.array([[4, 2, 7], [4, 2, 7], [1, -1, -1]]), np.array([7, 3, -1])).tolist()
    [3, 0, 0]
    """
    if not found.shape[1]:
        return np.zeros(len(found), dtype=np.int64)
    same = (found == truth[:, None]) & (truth[:, None] >= 0)
    return np.where(same.any(axis=1), same.argmax(axis=1) + 1, 0)


def are_hits(ranks: np.ndarray, cutoff: int) -> np.ndarray:
    """Whether each rank is among the first `cutoff`: bool, shaped as `ranks`."""
    hits: np.ndarray = (ranks > 0) & (ranks <= cutoff)
    return hits


def recall_at(ranks: np.ndarray, known: np.ndarray, cutoff: int) -> float | None:
    """The share of known queries (bool (Q,)) whose rank is at most `cutoff`; None where no query is known.

    With ranks among distinct individuals this is recall@K, with ranks among images image_recall@K.

    >>> recall_at(np.array([1, 3, 0, 1]), np.array([True, True, True, False]), 2)
    0.3333333333333333
    """
    return float(are_hits(ranks, cutoff)[known].mean()) if known.any() else None


def average_precisions(
    cosines: np.ndarray, ranks: np.ndarray, new: np.ndarray, *, threshold: float | None
) -> np.ndarray:
    """What each query adds to map@5, float (Q,): 1 / the place of the right label among five labels, else 0.

    cosines: (Q, 5 or more), largest cosine of the ranked individuals. ranks: (Q,), of the right individual. new: (Q,)
    whether the right label is the unknown individual, which enters before the first cosine below the threshold.

    >>> cosines = np.array([[0.9, 0.4, 0.3], [0.9, 0.4, 0.3]])
    >>> average_precisions(cosines, np.array([2, 0]), np.array([False, True]), threshold=0.5).tolist()
    [0.3333333333333333, 0.5]
    """
    entry = new_individual_place(cosines[:, :_DEPTH], threshold)
    shifted = ranks + ((entry > 0) & (entry <= ranks))
    places = np.where(new, entry, shifted)
    return np.where(are_hits(places, _DEPTH), 1.0 / np.maximum(places, 1), 0.0)


@dataclass(frozen=True)
class ThresholdSteps:
    """map@5 as a function of the threshold, which is piecewise constant: `gains` count where threshold > `values`.

    base, of each query (Q,): the value at the lowest threshold. values (E,), rising; gains (E,); queries (E,): whose.
    Gains and base are in sixtieths, whole numbers.
    """

    base: np.ndarray
    values: np.ndarray
    gains: np.ndarray
    queries: np.ndarray


def threshold_steps(cosines: np.ndarray, ranks: np.ndarray, new: np.ndarray) -> ThresholdSteps:
    """Every step that map@5 makes as the threshold rises; arguments as `average_precisions`."""
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
    """For each group of queries, the threshold with the largest map@5, and that score's sum in sixtieths.

    groups: bool (G, Q). The threshold is the middle of the widest range that reaches the best score (the lowest of
    equals), within [-1, 1]. Returns float (G,) and int (G,).
    """
    bases = groups @ steps.base
    if not len(steps.values):
        return np.zeros(len(groups)), bases
    last = np.append(np.diff(steps.values) > 0, True)
    gains = np.where(groups[:, steps.queries], steps.gains, 0).cumsum(axis=1)[:, last]
    scores = bases[:, None] + np.concatenate([np.zeros((len(groups), 1), dtype=np.int64), gains], axis=1)
    values = steps.values[last]
    edges = np.concatenate([[min(-1.0, values[0])], values, [max(1.0, values[-1] + 1.0 / STEPS)]])
    best = scores.max(axis=1)
    return np.array([_middle_of_widest(row, edges) for row in scores == best[:, None]]), best


def _middle_of_widest(best: np.ndarray, edges: np.ndarray) -> float:
    """The middle of the longest run of True in `best` (P,), whose pieces lie between `edges` (P + 1,)."""
    bounded = np.concatenate([[False], best, [False]])
    turns = np.flatnonzero(bounded[1:] != bounded[:-1])
    lower, upper = edges[turns[::2]], edges[turns[1::2]]
    widest = np.argmax(upper - lower)
    return float((lower[widest] + upper[widest]) / 2)


def chance_of_recall(individuals: np.ndarray | int, cutoff: int) -> float:
    """The expected recall@K of `individuals` ranked in random order, averaged over queries where there are many."""
    return float(np.minimum(1.0, cutoff / np.asarray(individuals)).mean())


def chance_of_image_recall(images: np.ndarray, gallery: np.ndarray | int, cutoff: int) -> float:
    """The expected image_recall@K of a gallery in random order: 1 - C(N - n, K) / C(N, K), averaged over queries.

    images: (Q,), n, how many gallery images show the right individual, at least one. gallery: N, (Q,) or one for all.

    >>> round(chance_of_image_recall(np.array([1, 2]), gallery=4, cutoff=2), 6)
    0.666667
    """
    drawn = np.arange(cutoff)
    left = np.broadcast_to(gallery, images.shape)[:, None] - drawn
    missed = np.clip((left - images[:, None]) / np.maximum(left, 1), 0.0, None).prod(axis=1)
    return float(1.0 - missed.mean())


def chance_of_map(individuals: np.ndarray | int, known_share: float) -> float:
    """The expected map@5 of individuals in random order, the unknown one never named, averaged over known queries.

    known_share: the share of all queries whose individual is in the gallery.
    """
    sums = np.cumsum(1.0 / np.arange(1, _DEPTH + 1))
    ranked = np.minimum(_DEPTH, individuals)
    return known_share * float((sums[ranked - 1] / individuals).mean())
