"""Cross-fitted choice of an ensemble's members: for each fold of queries, the ensemble that the other folds choose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from whale_ray.atomic_files import replaced_atomically
from whale_ray.retrieval.evaluation.query_clusters import FOLDS
from whale_ray.sweep.analysis.per_query_scores import query_scores, read_queries, score_arrays
from whale_ray.sweep.run_folder.records import Record, read_record, write_result
from whale_ray.sweep.trials.ensemble import (
    KIND,
    MEMBERS,
    MEMBERS_BY_FOLD,
    ScoredEnsemble,
    choose_members,
    ensemble_folder,
    score_members,
)
from whale_ray.sweep.trials.scoring import Scoring

_FILE = "queries_by_fold.parquet"


def cross_fit_members(
    ensemble: Record,
    records: Sequence[Record],
    scoring: Scoring,
    *,
    count: int,
    say: Callable[[str], None],
    score: Callable[[Sequence[Record]], ScoredEnsemble] | None = None,
) -> bool:
    """Write the queries of the ensemble that each fold's other queries choose; return whether something was written.

    Distinct sets of members are few: an ensemble is joined and scored once for each set that differs from its own, at
    most `FOLDS` times, and needs no training. Nothing is done if the file holds these sets already.

    Args:
        ensemble: The ensemble of all queries.
        records: The trials, best first.
        scoring: Retrieval settings and objective.
        count: Number of members.
        say: Prints the progress.
        score: Returns the scores of members; None for `score_members`.
    """
    if ensemble.kind != KIND:
        return False
    chosen = _members_by_fold(records, scoring.objective, count)
    names = [_sorted_names(members) for members in chosen]
    if not names or ensemble.result.get(MEMBERS_BY_FOLD) == names:
        return False
    own = sorted(ensemble.settings[MEMBERS])
    found: dict[tuple[str, ...], pd.DataFrame] = {tuple(own): read_queries(ensemble)}
    for members, key in zip(chosen, map(tuple, names), strict=True):
        if key not in found:
            say(f"the ensemble of {' and '.join(key)}, which other queries choose, is scored for the headline")
            scored = score(members) if score else score_members(members, scoring)
            found[key] = scored.evaluation.queries
    tables = [found[tuple(key)].assign(left_out=fold) for fold, key in enumerate(names)]
    with replaced_atomically(ensemble.folder / _FILE) as draft:
        pd.concat(tables, ignore_index=True).to_parquet(draft, index=False)
    write_result(ensemble.folder, {**ensemble.result, MEMBERS_BY_FOLD: names})
    return True


def ensembles_to_score(
    members: Sequence[Record], records: Sequence[Record], run: Path, objective: str, *, count: int
) -> list[list[Record]]:
    """Return the members of each ensemble that `make_ensemble` and `cross_fit_members` have to score.

    Args:
        members: The members that all queries choose.
        records: The trials, best first.
        run: The run folder.
        objective: Name of the score.
        count: Number of members.
    """
    if len(members) < 2:
        return []
    folder, chosen = ensemble_folder(members, run), _members_by_fold(records, objective, count)
    written = read_record(folder).result if (folder / "result.json").exists() else None
    by_names = {tuple(_sorted_names(one)): list(one) for one in reversed([members, *chosen])}
    own = by_names.pop(tuple(_sorted_names(members)))
    if written is None:
        return [own, *by_names.values()]
    return [] if written.get(MEMBERS_BY_FOLD) == [_sorted_names(one) for one in chosen] else [*by_names.values()]


def _members_by_fold(records: Sequence[Record], objective: str, count: int) -> list[list[Record]]:
    """Return the members that the queries outside each fold choose; [] if these cannot choose an ensemble."""
    trials = [one for one in records if one.kind == "trial" and one.status == "finished"]
    chosen = [choose_members(ranked, count) for ranked in rank_by_fold(trials, objective)]
    return [] if any(len(members) < 2 for members in chosen) else chosen


def _sorted_names(members: Sequence[Record]) -> list[str]:
    return sorted(member.trial for member in members)


def rank_by_fold(trials: Sequence[Record], objective: str) -> list[list[Record]]:
    """Return the trials by their score on the queries outside each fold, best first; [] without queries.

    Args:
        trials: The trials, best first; the order decides between equal ones.
        objective: Name of the score.
    """
    means = np.array([query_scores(trial, objective).means_outside_folds() for trial in trials])
    if not len(means) or np.isnan(means).all(axis=1).any():
        return []
    ranked = []
    for fold in range(FOLDS):
        order = np.argsort(-np.nan_to_num(means[:, fold], nan=-1.0), kind="stable")
        ranked.append([trials[place] for place in order])
    return ranked


def means_by_fold(record: Record, objective: str) -> np.ndarray:
    """Return, by fold, the mean score over the queries outside of it, of what `queries_by_fold` returns; NaN for none.

    Args:
        record: The trial.
        objective: Name of the score.

    Returns:
        Shape (FOLDS,).
    """
    if not _is_cross_fitted(record):
        return query_scores(record, objective).means_outside_folds()
    found = queries_by_fold(record).items()
    return np.array([score_arrays(table, objective).means_outside_folds()[fold] for fold, table in found])


def queries_by_fold(record: Record) -> Mapping[int, pd.DataFrame]:
    """Return, by fold, the queries of the ensemble that the other folds choose; of any other trial its own queries.

    An ensemble of an earlier version has its own as well: its members are those that all queries choose.
    """
    if not _is_cross_fitted(record):
        return dict.fromkeys(range(FOLDS), read_queries(record))
    every = pd.read_parquet(record.folder / _FILE)
    return {fold: every[every["left_out"] == fold].drop(columns="left_out") for fold in range(FOLDS)}


def _is_cross_fitted(record: Record) -> bool:
    return MEMBERS_BY_FOLD in record.result and (record.folder / _FILE).exists()
