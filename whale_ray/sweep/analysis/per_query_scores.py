"""What every query got: from each trial, and from each retrieval setting of a trial, as columns over the same queries.

Reads a finished trial's queries.parquet and embeddings.npz; compares nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from whale_ray.retrieval.evaluation.metrics import are_hits, average_precisions
from whale_ray.retrieval.evaluation.score_names import MAP
from whale_ray.retrieval.evaluation.search_runs import SearchRuns
from whale_ray.retrieval.evaluation.selection import Outcome, Queries, plain_scores
from whale_ray.retrieval.search.retrieval_config import RetrievalSetting
from whale_ray.sweep.run_folder.records import Record
from whale_ray.sweep.trials.embeddings_io import read_embeddings
from whale_ray.sweep.trials.scoring import proxies_to_score, roles


@dataclass(frozen=True)
class Outcomes:
    """The scores of several columns over the same Q queries.

    scores: (Q, M). clusters: (Q,), what is resampled together. folds: (Q,), of cross-fitting.
    """

    scores: np.ndarray
    clusters: np.ndarray
    folds: np.ndarray


def query_scores(record: Record, objective: str) -> pd.DataFrame:
    """A row a query that the objective counts, by image: fold, cluster, score; empty where the trial left none."""
    path = record.folder / "queries.parquet"
    if not path.exists():
        return pd.DataFrame()
    queries = pd.read_parquet(path).set_index("image").sort_index()
    name, _, cutoff = objective.partition("@")
    if objective == MAP:
        return queries.assign(score=queries["average_precision@5"])
    counted = queries[queries["known"].astype(bool)]
    ranks = counted["image_rank" if name == "image_recall" else "rank"].to_numpy()
    return counted.assign(score=are_hits(ranks, int(cutoff)))


def of_trials(records: Sequence[Record], objective: str) -> tuple[list[Record], Outcomes | None]:
    """Those of the trials with a score that answered the same queries as the first, a column each; None without one."""
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
    """The images of the queries that the objective counts, and (Q, settings) what each setting gave them.

    From the trial's embeddings; nothing is cross-fitted, and map@5 has each setting's best threshold.
    Raises: InputError where the embeddings cannot be read.
    """
    views, table = read_embeddings(record.folder)
    proxies = proxies_to_score(record, settings)
    if not proxies:
        settings = [replace(setting, classifier_weight=0.0) for setting in settings]
    splits = table["split"].to_numpy()
    held = SearchRuns(views, settings, splits=splits, proxies=proxies, **roles(table, record.settings))
    columns = [_scores(held.outcome(setting), held.queries, objective) for setting in settings]
    images = table["image"].to_numpy(dtype=str)[held.rows]
    counted = np.ones(len(images), dtype=bool) if objective == MAP else held.queries.known
    return pd.Index(images[counted]), np.column_stack(columns)[counted]


def _scores(outcome: Outcome, queries: Queries, objective: str) -> np.ndarray:
    name, _, cutoff = objective.partition("@")
    if objective == MAP:
        threshold = plain_scores(outcome, queries)["threshold"]
        return average_precisions(outcome.cosines, outcome.ranks, outcome.new, threshold=threshold)
    hits = are_hits(outcome.image_ranks if name == "image_recall" else outcome.ranks, int(cutoff))
    return hits.astype(np.float64)
