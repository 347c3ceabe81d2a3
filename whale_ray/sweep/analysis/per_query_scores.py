"""Per-query scores: from each trial, and from each retrieval setting of a trial, over the same queries."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import pandas as pd

from whale_ray.retrieval.evaluation.evaluation_tables import SettingQueries
from whale_ray.retrieval.evaluation.metrics import values_of_ranks
from whale_ray.retrieval.evaluation.query_clusters import FOLDS
from whale_ray.retrieval.evaluation.score_names import MAP, averages_individuals
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting
from whale_ray.sweep.analysis.rescoring import proxies_to_score, rescore
from whale_ray.sweep.file_cache import FileCache
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


class QueryScores(NamedTuple):
    """Scores of the Q queries of a trial that an objective counts, or of the Q individuals that it averages over.

    Attributes:
        names: Images of the queries, or individuals, in order, shape (Q,).
        clusters: Unit of resampling of each, shape (Q,).
        folds: Cross-fitting fold of each, shape (Q,).
        scores: Score of each, shape (Q,).
    """

    names: np.ndarray
    clusters: np.ndarray
    folds: np.ndarray
    scores: np.ndarray

    def means_outside_folds(self) -> np.ndarray:
        """Return the mean over the queries outside of each fold, shape (FOLDS,); NaN if all are in it."""
        outside = self.folds[:, None] != np.arange(FOLDS)
        sums, counts = np.where(outside, self.scores[:, None], 0.0).sum(axis=0), outside.sum(axis=0)
        return np.asarray(np.divide(sums, counts, out=np.full(FOLDS, np.nan), where=counts > 0))


def query_scores(record: Record, objective: str) -> QueryScores:
    """Return the scores of a trial's queries; of none without queries.parquet.

    They are read once per version of the file. Trials with the same queries share names, clusters and folds, so that
    each further trial takes 8 bytes per query.

    Args:
        record: The trial.
        objective: Name of the score.
    """
    path = record.folder / "queries.parquet"
    return _scores_in(path, objective) if path.exists() else score_arrays(pd.DataFrame(), objective)


def _read_scores(path: Path, objective: str) -> QueryScores:
    return score_arrays(pd.read_parquet(path), objective)


_scores_in = FileCache(_read_scores, weigh=lambda found: len(found.scores), most=2**25)


def score_arrays(queries: pd.DataFrame, objective: str) -> QueryScores:
    """Return the scores of queries, as in queries.parquet.

    Args:
        queries: The queries.
        objective: Name of the score.
    """
    table = score_queries(queries, objective)
    if table.empty:
        return QueryScores(*(np.array([], dtype=kind) for kind in (str, str, int, float)))
    names, clusters = (_shared(values.to_numpy(dtype=str)) for values in (table.index, table["cluster"]))
    return QueryScores(names, clusters, _shared(table["fold"].to_numpy()), table["score"].to_numpy(dtype=float))


_SHARED: WeakValueDictionary[tuple[str, bytes], np.ndarray] = WeakValueDictionary()


def _shared(values: np.ndarray) -> np.ndarray:
    """Return an equal array that other trials have as well, if there is one."""
    key = (values.dtype.str, hashlib.blake2b(values.tobytes()).digest())
    return _SHARED.setdefault(key, values)


def read_queries(record: Record) -> pd.DataFrame:
    """Return queries.parquet of a trial, one row per query; empty without the file."""
    path = record.folder / "queries.parquet"
    return pd.read_parquet(path) if path.exists() else pd.DataFrame()


def score_queries(queries: pd.DataFrame, objective: str) -> pd.DataFrame:
    """Return fold, cluster and score of each query that the objective counts, by image.

    For an objective averaged over individuals: of each individual, by its name.

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
    same, columns = list[Record](), list[QueryScores]()
    for record in records:
        if record.status != "finished" or record.result.get(objective) is None:
            continue
        found = query_scores(record, objective)
        if not columns and not len(found.names):
            return [], None
        if not columns or np.array_equal(found.names, columns[0].names):
            same.append(record)
            columns.append(found)
    if not columns:
        return [], None
    scores = np.column_stack([found.scores for found in columns])
    return same, Outcomes(scores, columns[0].clusters, columns[0].folds)


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
