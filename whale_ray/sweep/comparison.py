"""Trials beside each other on the same queries: which are told apart, and what choosing the best is really worth.

Reads each finished trial's queries.parquet; knows no page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from whale_ray.retrieval.metrics import are_hits
from whale_ray.retrieval.resampling import bootstrap_interval
from whale_ray.sweep.leaderboard import Record


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
    found = [(record.trial, _scores(record, objective)) for record in records if record.status == "finished"]
    if not found or found[0][1].empty:
        return None
    first = found[0][1]
    same = [(trial, table) for trial, table in found if table.index.equals(first.index)]
    if len(same) < 2:
        return None
    scores = np.column_stack([table["score"].to_numpy(dtype=float) for _, table in same])
    chosen = _chosen_by_others(scores, first["fold"].to_numpy())
    values = np.column_stack([chosen, scores[:, 1:] - scores[:, :1]])
    low, high = bootstrap_interval(values, np.ones(values.shape, dtype=bool), first["cluster"].to_numpy(dtype=str))
    others = zip(same[1:], low[1:], high[1:], strict=True)
    together = frozenset(trial for (trial, _), below, above in others if not (below > 0 or above < 0))
    return Comparison(float(chosen.mean()), float(low[0]), float(high[0]), together)


def _scores(record: Record, objective: str) -> pd.DataFrame:
    """A row a query that the objective counts, by image: fold, cluster, score; empty where the trial left none."""
    path = record.folder / "queries.parquet"
    if not path.exists():
        return pd.DataFrame()
    queries = pd.read_parquet(path).set_index("image").sort_index()
    name, _, cutoff = objective.partition("@")
    if name == "map":
        return queries.assign(score=queries["average_precision@5"])
    counted = queries[queries["known"].astype(bool)]
    ranks = counted["image_rank" if name == "image_recall" else "rank"].to_numpy()
    return counted.assign(score=are_hits(ranks, int(cutoff)))


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
