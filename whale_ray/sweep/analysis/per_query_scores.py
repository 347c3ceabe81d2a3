"""Per-query scores: from each trial, and from each retrieval setting of a trial, over the same queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from whale_ray.retrieval.evaluation.evaluation_tables import SettingQueries
from whale_ray.retrieval.evaluation.metrics import values_of_ranks
from whale_ray.retrieval.evaluation.score_names import MAP, averages_individuals
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting
from whale_ray.sweep.analysis.rescoring import proxies_to_score, rescore
from whale_ray.sweep.run_folder.records import Record
from whale_ray.sweep.run_folder.setting_queries import read_setting_queries
from whale_ray.sweep.trials.scoring import Scoring


@dataclass(frozen=True)
class Outcomes:
    """Scores of several columns over the same Q queries.

    Attributes:
        scores: Shape (Q, M).
        clusters: Unit of resampling of each query, shape (Q,).
        folds: Cross-fitting fold of each query, shape (Q,).
    """

    scores: np.ndarray
    clusters: np.ndarray
    folds: np.ndarray


def query_scores(record: Record, objective: str) -> pd.DataFrame:
    """Return fold, cluster and score of each query that the objective counts, by image; empty without queries.parquet.

    For an objective averaged over individuals: of each individual, by its name.

    Args:
        record: The trial.
        objective: Name of the score.
    """
    return score_queries(read_queries(record), objective)


def read_queries(record: Record) -> pd.DataFrame:
    """Return queries.parquet of a trial, one row per query; empty without the file."""
    path = record.folder / "queries.parquet"
    return pd.read_parquet(path) if path.exists() else pd.DataFrame()


def score_queries(queries: pd.DataFrame, objective: str) -> pd.DataFrame:
    """Return fold, cluster and score of each query as `query_scores` does.

    Args:
        queries: The queries, as in queries.parquet.
        objective: Name of the score.
    """
    if queries.empty:
        return queries
    queries = queries.set_index("image").sort_index()
    if objective == MAP:
        return queries.assign(score=queries["average_precision@5"])
    counted = queries[queries["known"].astype(bool)]
    ranks = (counted[name].to_numpy() for name in ("rank", "image_rank"))
    counted = counted.assign(score=values_of_ranks(objective, *ranks))
    if not averages_individuals(objective):
        return counted
    return counted.groupby("individual").agg({"fold": "first", "cluster": "first", "score": "mean"})


def of_trials(records: Sequence[Record], objective: str) -> tuple[list[Record], Outcomes | None]:
    """Return the trials with a score that answered the same queries as the first, and their scores as columns.

    Args:
        records: The trials.
        objective: Name of the score.
    """
    scored = [one for one in records if one.status == "finished" and one.result.get(objective) is not None]
    found = [(record, query_scores(record, objective)) for record in scored]
    if not found or found[0][1].empty:
        return [], None
    first = found[0][1]
    same = [(record, table) for record, table in found if table.index.equals(first.index)]
    scores = np.column_stack([table["score"].to_numpy(dtype=float) for _, table in same])
    outcomes = Outcomes(scores, first["cluster"].to_numpy(dtype=str), first["fold"].to_numpy())
    return [record for record, _ in same], outcomes


def of_settings(record: Record, settings: Sequence[RetrievalSetting], objective: str) -> tuple[pd.Index, np.ndarray]:
    """Return the images of the counted queries and the score of each under each setting, shape (Q, settings).

    For an objective averaged over individuals: the individuals and their means. Not cross-fitted; map@5 has each
    setting's best threshold. Computed from the trial's embeddings where setting_queries.npz does not have all settings.

    Args:
        record: The trial.
        settings: The retrieval settings.
        objective: Name of the score.

    Raises:
        InputError: If the embeddings cannot be read.
    """
    proxies = proxies_to_score(record, settings)
    if not proxies:
        settings = [replace(setting, classifier_weight=0.0) for setting in settings]
    found = read_setting_queries(record.folder, settings) or _score_again(record, settings, objective)
    scores = found.precisions if objective == MAP else values_of_ranks(objective, found.ranks, found.image_ranks)
    counted = np.ones(len(found.known), dtype=bool) if objective == MAP else found.known
    if not averages_individuals(objective):
        return pd.Index(found.images[counted]), scores[counted]
    means = pd.DataFrame(scores[counted]).groupby(found.individuals[counted]).mean()
    return means.index, means.to_numpy()


def _score_again(record: Record, settings: Sequence[RetrievalSetting], objective: str) -> SettingQueries:
    distinct = tuple(dict.fromkeys(settings))
    found = rescore(record, Scoring(distinct, objective)).by_setting
    return found.columns([found.settings.index(setting) for setting in settings])
