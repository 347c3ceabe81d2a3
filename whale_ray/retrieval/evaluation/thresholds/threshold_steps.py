"""MAP@5 as a function of the threshold, and the threshold with the largest one on each group of queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from whale_ray.retrieval.evaluation.metrics import DEPTH, are_hits
from whale_ray.retrieval.search.gallery_index import STEPS

SIXTIETHS: Final = 60
"""1, 1/2 … 1/5 are whole numbers of sixtieths, so that sums are exact."""
WORTH = np.append(SIXTIETHS // np.arange(1, DEPTH + 1), 0)
"""Value of the right answer at each place, in sixtieths; 0 beyond the last one."""
DIGITS: Final = 9
"""Weighted sums that are equal to so many digits differ by rounding only."""


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
    lowest = np.minimum.accumulate(cosines[:, :DEPTH], axis=1)
    width = lowest.shape[1]
    ranked = np.flatnonzero(are_hits(ranks, width) & ~new)
    present = ~np.isnan(lowest)
    next_worth = np.where(np.pad(present[:, 1:], ((0, 0), (0, 1)))[:, :width], WORTH[1 : width + 1], 0)
    gains = np.where(new[:, None], WORTH[:width] - next_worth, 0)
    gains[ranked, ranks[ranked] - 1] = WORTH[ranks[ranked]] - WORTH[ranks[ranked] - 1]
    base = np.zeros(len(ranks), dtype=np.int64)
    base[ranked] = WORTH[ranks[ranked] - 1]
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
    edges = piece_edges(values)
    scores = np.round(scores, DIGITS)
    best = scores.max(axis=1)
    return np.array([middle_of_widest(row, edges) for row in scores == best[:, None]]), best


def middle_of_widest(best: np.ndarray, edges: np.ndarray) -> float:
    """Return the middle of the longest run of pieces that are best.

    Args:
        best: Whether a piece is best, bool, shape (P,).
        edges: Rising limits of the pieces, shape (P + 1,).
    """
    bounded = np.concatenate([[False], best, [False]])
    turns = np.flatnonzero(bounded[1:] != bounded[:-1])
    lower, upper = edges[turns[::2]], edges[turns[1::2]]
    widest = np.argmax(upper - lower)
    return float((lower[widest] + upper[widest]) / 2)


def piece_edges(values: np.ndarray) -> np.ndarray:
    """Return the limits of the pieces between rising thresholds (E,), float64, shape (E + 2,); they cover [-1, 1]."""
    return np.concatenate([[min(-1.0, values[0])], values, [max(1.0, values[-1] + 1.0 / STEPS)]])
