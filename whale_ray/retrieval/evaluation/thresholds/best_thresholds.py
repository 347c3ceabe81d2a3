"""Best threshold of each of many retrieval settings on all queries: `best_thresholds`, for all settings at once."""

from __future__ import annotations

import numpy as np

from whale_ray.retrieval.evaluation.metrics import DEPTH, are_hits
from whale_ray.retrieval.evaluation.thresholds.threshold_steps import WORTH, middle_of_widest, piece_edges


def best_of_settings(cosines: np.ndarray, ranks: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the threshold of each setting with the largest MAP@5, and the sum of that score in sixtieths, both (S,).

    Args:
        cosines: Largest cosine of the first individuals, NaN if there are no more, shape (S, Q, 5).
        ranks: Rank of the right individual, shape (S, Q).
        new: Whether the right label is the unknown individual, shape (Q,).
    """
    values, gains, bases = _steps(np.minimum.accumulate(cosines, axis=2), ranks, new)
    order = np.argsort(values, axis=1, kind="stable")
    values, gains = (np.take_along_axis(each, order, axis=1) for each in (values, gains))
    scores = np.concatenate([bases[:, None], bases[:, None] + gains.cumsum(axis=1)], axis=1)
    # A step counts where the next one is higher: equal thresholds change the score together. NaN comes last.
    beyond = np.concatenate([values[:, 1:], np.full((len(values), 1), np.nan)], axis=1)
    counts = ~np.isnan(values) & ~(values == beyond)
    reached = np.concatenate([np.ones((len(values), 1), dtype=bool), counts], axis=1)
    sums = np.where(reached, scores, -1).max(axis=1)
    thresholds = np.zeros(len(values))
    for place in np.flatnonzero(counts.any(axis=1)):
        is_best = scores[place, reached[place]] == sums[place]
        thresholds[place] = middle_of_widest(is_best, piece_edges(values[place, counts[place]]))
    return thresholds, sums


def _steps(lowest: np.ndarray, ranks: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return thresholds and gains of all steps, NaN and 0 for none, shape (S, E), and the sum at the lowest threshold.

    A known query loses where the unknown individual comes before its own; a new one gains place by place.
    """
    of_new = lowest[:, new]
    there = ~np.isnan(of_new)
    next_worth = np.where(np.pad(there[:, :, 1:], ((0, 0), (0, 0), (0, 1))), WORTH[1 : DEPTH + 1], 0)
    gains_of_new = np.where(there, WORTH[:DEPTH] - next_worth, 0)
    known_ranks = ranks[:, ~new]
    is_ranked = are_hits(known_ranks, DEPTH)
    places = np.where(is_ranked, known_ranks - 1, 0)
    of_known = np.take_along_axis(lowest[:, ~new], places[:, :, None], axis=2)[:, :, 0]
    worth = np.where(is_ranked, WORTH[places], 0)
    gains_of_known = np.where(is_ranked, WORTH[places + 1], 0) - worth
    count = len(ranks)
    values = np.concatenate([np.where(is_ranked, of_known, np.nan), of_new.reshape(count, -1)], axis=1)
    gains = np.concatenate([gains_of_known, gains_of_new.reshape(count, -1)], axis=1)
    return np.where(gains != 0, values, np.nan), gains, worth.sum(axis=1)
