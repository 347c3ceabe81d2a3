"""Trials beside each other on the same queries: which are told apart, and what choosing the best is really worth.

Knows what each query got from each trial; knows no page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from whale_ray.retrieval.resampling import bootstrap_interval
from whale_ray.sweep.leaderboard import Record
from whale_ray.sweep.outcomes import of_trials


@dataclass(frozen=True)
class Comparison:
    """What the queries of several trials say together.

    score, low, high: the objective when the trial is chosen on four folds and scored on the fifth, and its 95 %
    interval. together: ids of trials whose paired interval of the difference to the best holds zero.
    """

    score: float
    low: float
    high: float
    together: frozenset[str]


def compare_trials(records: Sequence[Record], objective: str) -> Comparison | None:
    """The comparison of finished trials, the best one first; None where fewer than two answered the same queries."""
    same, outcomes = of_trials(records, objective)
    if outcomes is None or len(same) < 2:
        return None
    scores = outcomes.scores
    chosen = _chosen_by_others(scores, outcomes.folds)
    values = np.column_stack([chosen, scores[:, 1:] - scores[:, :1]])
    low, high = bootstrap_interval(values, np.ones(values.shape, dtype=bool), outcomes.clusters)
    others = zip(same[1:], low[1:], high[1:], strict=True)
    together = frozenset(record.trial for record, below, above in others if not (below > 0 or above < 0))
    return Comparison(float(chosen.mean()), float(low[0]), float(high[0]), together)


def _chosen_by_others(scores: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Each query's score (Q,) by the trial that is best on the other folds' queries; scores: (Q, M).

    >>> _chosen_by_others(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 1])).tolist()
    [0.0, 0.0]
    """
    chosen = np.zeros(len(scores))
    for fold in np.unique(folds):
        others = scores[folds != fold]
        best = int(others.mean(axis=0).argmax()) if len(others) else 0
        chosen[folds == fold] = scores[folds == fold, best]
    return chosen
