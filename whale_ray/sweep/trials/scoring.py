"""Scores of a trial from its embeddings: after training, and again for other retrieval settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from whale_ray.atomic_files import replaced_atomically, write_atomically
from whale_ray.data.split import plays_unknown
from whale_ray.errors import InputError
from whale_ray.learning.losses.class_proxies import PROXY_LOSSES
from whale_ray.retrieval.evaluation.evaluate import Evaluation, RetrievalSetting, evaluate, score_setting, study_recall
from whale_ray.retrieval.search.proxy_classifier import ClassProxies
from whale_ray.sweep.config.sweep_spec import Sweep, load_sweep
from whale_ray.sweep.planning.trial_settings import Settings, retrieval_settings
from whale_ray.sweep.run_folder.leaderboard import leaderboard, write_leaderboard
from whale_ray.sweep.run_folder.records import Record, read_records, sweep_file, write_result
from whale_ray.sweep.trials.class_proxies import SplitProxies
from whale_ray.sweep.trials.embeddings_io import Views, read_embeddings, read_proxies

# Version of the scores. Trials that were scored by another version are scored again from their embeddings.
DEFINITION = 3


@dataclass(frozen=True)
class Scoring:
    """Retrieval settings and objective of a sweep.

    Attributes:
        retrieval: The retrieval settings to choose from.
        objective: Name of the score to maximize.
    """

    retrieval: tuple[RetrievalSetting, ...]
    objective: str

    def written(self) -> dict[str, Any]:
        """Return the JSON value that a result stores, to detect trials scored otherwise."""
        settings = [list(dataclasses.astuple(one)) for one in self.retrieval]
        return {"definition": DEFINITION, "objective": self.objective, "retrieval": settings}

    def of(self, kind: str) -> Scoring:
        """Return the scoring of a kind of trial; for a baseline, without whitening, expansion and re-ranking."""
        if kind != "baseline":
            return self
        plain = (one.baseline() for one in self.retrieval)
        return dataclasses.replace(self, retrieval=tuple(dict.fromkeys(plain)))


def scoring_of(sweep: Sweep) -> Scoring:
    """Return the scoring of a sweep."""
    return Scoring(retrieval_settings(sweep), sweep.fixed["search.objective"])


def roles(table: pd.DataFrame, settings: Settings) -> dict[str, Any]:
    """Return individuals, parts and the treatment of unknown individuals, as arguments of `evaluate`.

    Args:
        table: A row for each embedding: individual, part.
        settings: Settings of the trial.
    """
    unknown = settings["data"]["unknown_label"]
    kind = settings["split"]["kind"]
    return {
        "individuals": table["individual"].to_numpy(dtype=str),
        "parts": table["part"].to_numpy(dtype=str),
        "unknown_label": unknown,
        "held_out_as_new": plays_unknown(kind, table["individual"], unknown_label=unknown),
    }


def score_epoch(
    views: Views,
    table: pd.DataFrame,
    *,
    setting: RetrievalSetting,
    settings: Settings,
    proxies: ClassProxies | None = None,
) -> dict[str, float | None]:
    """Return the scores of one retrieval setting during training, not cross-fitted.

    Args:
        views: As in `score_trial`.
        table: As in `score_trial`.
        setting: The retrieval setting.
        settings: Settings of the trial.
        proxies: Class proxies of the only split.
    """
    return score_setting(views, setting=setting, proxies=proxies, **roles(table, settings))


def score_trial(
    views: Views,
    table: pd.DataFrame,
    *,
    scoring: Scoring,
    settings: Settings,
    proxies: SplitProxies | None = None,
) -> Evaluation:
    """Return the cross-fitted scores of every retrieval setting.

    Args:
        views: `plain` and `flip`: embeddings, float16, shape (N, D).
        table: A row for each embedding: image, individual, group, part, split.
        scoring: Retrieval settings and objective.
        settings: Settings of the trial.
        proxies: Class proxies by split.
    """
    return evaluate(
        views,
        images=table["image"].to_numpy(dtype=str),
        groups=table["group"].to_numpy(dtype=str),
        splits=table["split"].to_numpy(),
        proxies=proxies,
        settings=scoring.retrieval,
        objective=scoring.objective,
        **roles(table, settings),
    )


def figures_of(evaluation: Evaluation, scoring: Scoring) -> dict[str, Any]:
    """Return the entries of result.json for an evaluation: scores, chosen retrieval setting, threshold, scoring.

    Args:
        evaluation: The evaluation.
        scoring: Retrieval settings and objective.
    """
    best = evaluation.best
    return {
        **evaluation.scores,
        **dataclasses.asdict(best),
        "threshold": evaluation.threshold,
        "calibration": evaluation.calibration.written(),
        "scored_with": scoring.written(),
    }


def study_figures(views: Views, table: pd.DataFrame) -> dict[str, float | None]:
    """Return study_recall@K of the plain view, as the original study counts it.

    Args:
        views: As in `score_trial`.
        table: As in `score_trial`.
    """
    columns = (table[name].to_numpy(dtype=str) for name in ("individual", "part"))
    individuals, parts = columns
    return study_recall(views["plain"], individuals=individuals, parts=parts)


def write_scores(evaluation: Evaluation, folder: Path) -> None:
    """Write retrieval.csv (a row for each setting) and queries.parquet (a row for each query).

    Args:
        evaluation: The evaluation.
        folder: The trial's folder.
    """
    write_atomically(folder / "retrieval.csv", evaluation.table.to_csv(index=False))
    with replaced_atomically(folder / "queries.parquet") as draft:
        evaluation.queries.to_parquet(draft, index=False)


def proxies_to_score(record: Record, settings: Sequence[RetrievalSetting]) -> SplitProxies:
    """Return the class proxies of a finished trial by split; an empty dict if no setting has a classifier.

    Args:
        record: The trial.
        settings: Retrieval settings that it is scored by.

    Raises:
        InputError: If the loss has class proxies, but the trial did not store them.
    """
    if not any(one.classifier_weight for one in settings):
        return {}
    proxies = read_proxies(record.folder)
    if not proxies and record.kind in ("trial", "repeat") and record.settings["loss"]["name"] in PROXY_LOSSES:
        raise InputError(
            f"classifier_weight needs the proxies of the loss, but trial {record.trial} kept none: an earlier version "
            "trained it. Take classifier_weight: 0, or train anew with --fresh"
        )
    return proxies


def is_scored_by(scoring: Scoring, record: Record) -> bool:
    """Return whether the result of a finished trial was scored with these settings and this objective.

    Args:
        scoring: Retrieval settings and objective.
        record: The trial.
    """
    return bool(record.result.get("scored_with") == scoring.of(record.kind).written())


def rescore(record: Record, scoring: Scoring) -> Evaluation:
    """Return the scores of a finished trial from its stored embeddings; nothing is written.

    Args:
        record: The trial.
        scoring: Retrieval settings and objective.
    """
    views, table = read_embeddings(record.folder)
    proxies = proxies_to_score(record, scoring.retrieval)
    return score_trial(views, table, scoring=scoring, settings=record.settings, proxies=proxies)


def rescore_for_good(record: Record, scoring: Scoring) -> None:
    """Score a finished trial again and write its files, result.json last.

    Args:
        record: The trial.
        scoring: Retrieval settings and objective of the sweep.
    """
    scoring = scoring.of(record.kind)
    evaluation = rescore(record, scoring)
    write_scores(evaluation, record.folder)
    write_result(record.folder, {**record.result, **figures_of(evaluation, scoring)})


def score_again(run: Path, options: Sequence[str]) -> pd.DataFrame:
    """Return the leaderboard of a run for other retrieval settings, cross-fitted per trial.

    Writes leaderboard.csv and retrieval.csv (a row for each trial and setting) into rescored/; the other files of the
    run stay unchanged.

    Args:
        run: The run folder.
        options: Retrieval axes such as `vote=[nearest, softmax]`; the others keep the values of the sweep.

    Raises:
        InputError: If an option is unknown, the folder is not a run, no trial has finished, or a file is unreadable.
    """
    sweep = load_sweep(sweep_file(run), [f"retrieval.{option}" for option in options])
    scoring = scoring_of(sweep)
    finished = [record for record in read_records(run) if record.status == "finished"]
    if not finished:
        raise InputError(f"scoring again needs a finished trial, but {run} has none. Let the sweep finish one")
    found = [(record, rescore(record, scoring.of(record.kind))) for record in finished]
    records = [
        dataclasses.replace(record, result=record.result | figures_of(evaluation, scoring))
        for record, evaluation in found
    ]
    board = leaderboard(records, axes=[axis.name for axis in sweep.axes], objective=sweep.ranked_by, also=sweep.also)
    write_leaderboard(board, run / "rescored" / "leaderboard.csv")
    every = pd.concat({record.trial: one.table for record, one in found}, names=["trial", None])
    write_atomically(run / "rescored" / "retrieval.csv", every.reset_index("trial").to_csv(index=False))
    return board
