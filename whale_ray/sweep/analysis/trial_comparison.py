"""Comparison of trials on the same queries, and the cross-fitted score of choosing the best one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from whale_ray.retrieval.evaluation.query_clusters import FOLDS, bootstrap_interval
from whale_ray.retrieval.evaluation.score_names import INDIVIDUAL_SCORES, MAP
from whale_ray.sweep.analysis.ensemble_choice import means_by_fold, queries_by_fold
from whale_ray.sweep.analysis.per_query_scores import of_trials, score_queries
from whale_ray.sweep.run_folder.records import Record


@dataclass(frozen=True)
class Difference:
    """A score, or the difference of two on the same queries, with its 95 % interval."""

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
        scores: The same for other scores of the trial so chosen, by name; the objective is one of them.
        differences: Difference of the best trial to each other one, by id.
    """

    score: float
    low: float
    high: float
    scores: Mapping[str, Difference]
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
    values = outcomes.scores[:, :1] - outcomes.scores[:, 1:]
    found = dict(zip((record.trial for record in same[1:]), _estimates(values, outcomes.clusters), strict=True))
    queries = chosen_by_others(same, objective)
    names = dict.fromkeys((objective, MAP, "recall@1", *INDIVIDUAL_SCORES))
    scores = {}
    for name in names:
        table = score_queries(queries, name)
        if len(table):
            column = table["score"].to_numpy(dtype=float)[:, None]
            (scores[name],) = _estimates(column, table["cluster"].to_numpy(dtype=str))
    score = scores[objective]
    return Comparison(score.value, score.low, score.high, scores, found)


def _estimates(values: np.ndarray, clusters: np.ndarray) -> list[Difference]:
    """Return the mean of each column of (Q, M) with its interval."""
    low, high = bootstrap_interval(values, np.ones(values.shape, dtype=bool), clusters)
    return [Difference(*map(float, each)) for each in zip(values.mean(axis=0), low, high, strict=True)]


def chosen_by_others(records: Sequence[Record], objective: str) -> pd.DataFrame:
    """Return one row per query, as in queries.parquet, of the trial that is best on the other folds' queries.

    An ensemble takes part with the members that these other queries choose, where its run folder holds them.

    Args:
        records: Trials that answered the same queries; the first of equals is chosen.
        objective: Name of the score.
    """
    means = np.array([means_by_fold(record, objective) for record in records])
    rows = []
    for fold in range(FOLDS):
        best = 0 if np.isnan(means[:, fold]).any() else int(np.argmax(means[:, fold]))
        chosen = queries_by_fold(records[best])[fold]
        rows.append(chosen[chosen["fold"] == fold])
    return pd.concat(rows, ignore_index=True)
