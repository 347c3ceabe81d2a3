"""Comparison of trials on the same queries, and the cross-fitted score of choosing the best one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from whale_ray.retrieval.evaluation.query_clusters import bootstrap_interval
from whale_ray.sweep.analysis.per_query_scores import of_trials
from whale_ray.sweep.run_folder.records import Record


@dataclass(frozen=True)
class Difference:
    """Objective of the best trial minus that of another on the same queries, with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def told_apart(self) -> bool:
        """True if the interval excludes zero; False without an interval."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Comparison:
    """Comparison of several trials.

    Attributes:
        score: Objective when the trial is chosen on four folds and scored on the fifth.
        low: Lower end of its 95 % interval; NaN with too few individuals.
        high: Upper end.
        differences: Difference of the best trial to each other one, by id.
    """

    score: float
    low: float
    high: float
    differences: Mapping[str, Difference]

    @property
    def judged(self) -> bool:
        """True if there are enough individuals to compare trials."""
        return not np.isnan(self.low)

    @property
    def together(self) -> frozenset[str]:
        """Ids of the trials that are not told apart from the best."""
        return frozenset(trial for trial, one in self.differences.items() if not one.told_apart)


def compare_trials(records: Sequence[Record], objective: str) -> Comparison | None:
    """Return the comparison of finished trials; None if fewer than two answered the same queries.

    Args:
        records: The trials, best first.
        objective: Name of the score.
    """
    same, outcomes = of_trials(records, objective)
    if outcomes is None or len(same) < 2:
        return None
    scores = outcomes.scores
    chosen = _chosen_by_others(scores, outcomes.folds)
    values = np.column_stack([chosen, scores[:, :1] - scores[:, 1:]])
    low, high = bootstrap_interval(values, np.ones(values.shape, dtype=bool), outcomes.clusters)
    means, others = values.mean(axis=0), [record.trial for record in same[1:]]
    found = [Difference(*map(float, each)) for each in zip(means[1:], low[1:], high[1:], strict=True)]
    return Comparison(float(means[0]), float(low[0]), float(high[0]), dict(zip(others, found, strict=True)))


def _chosen_by_others(scores: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Return each query's score (Q,) by the trial that is best on the other folds' queries; scores: (Q, M).

    >>> _chosen_by_others(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 1])).tolist()
    [0.0, 0.0]
    """
    chosen = np.zeros(len(scores))
    for fold in np.unique(folds):
        others = scores[folds != fold]
        best = int(others.mean(axis=0).argmax()) if len(others) else 0
        chosen[folds == fold] = scores[folds == fold, best]
    return chosen
