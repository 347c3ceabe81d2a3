"""The scores of a trial from its embeddings: when it has trained, and again for other retrieval settings.

Knows vectors, the table of their photographs and the files that scores are written to; trains nothing.
"""

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

# Of the scores: trials that were scored by another definition are scored anew from their embeddings.
DEFINITION = 3


@dataclass(frozen=True)
class Scoring:
    """What the trials of a sweep are scored by: the retrieval settings to choose among, and what is to be large."""

    retrieval: tuple[RetrievalSetting, ...]
    objective: str

    def written(self) -> dict[str, Any]:
        """As a result says it, to be compared with another sweep's."""
        settings = [list(dataclasses.astuple(one)) for one in self.retrieval]
        return {"definition": DEFINITION, "objective": self.objective, "retrieval": settings}

    def of(self, kind: str) -> Scoring:
        """What a trial of this kind is scored by: a baseline is the encoder as it comes, its vectors as they come."""
        if kind != "baseline":
            return self
        plain = (one.baseline() for one in self.retrieval)
        return dataclasses.replace(self, retrieval=tuple(dict.fromkeys(plain)))


def scoring_of(sweep: Sweep) -> Scoring:
    """What this sweep's trials are scored by."""
    return Scoring(retrieval_settings(sweep), sweep.fixed["search.objective"])


def roles(table: pd.DataFrame, settings: Settings) -> dict[str, Any]:
    """What a score has to know of the photographs: who is on each, which part it is in, who plays `new_whale`."""
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
    """The scores of one setting, not cross-fitted: for looking on during training. Arguments as `score_trial`."""
    return score_setting(views, setting=setting, proxies=proxies, **roles(table, settings))


def score_trial(
    views: Views,
    table: pd.DataFrame,
    *,
    scoring: Scoring,
    settings: Settings,
    proxies: SplitProxies | None = None,
) -> Evaluation:
    """Every score of every setting, cross-fitted.

    views: `plain` and `flip`, float16 (N, D). table: a row a photograph and split: image, individual, group, part,
    split. settings: those of the trial.
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
    """What a result says of an evaluation: its scores, the setting and threshold chosen, and from among which."""
    best = evaluation.best
    return {
        **evaluation.scores,
        **dataclasses.asdict(best),
        "threshold": evaluation.threshold,
        "calibration": evaluation.calibration.written(),
        "scored_with": scoring.written(),
    }


def study_figures(views: Views, table: pd.DataFrame) -> dict[str, float | None]:
    """study_recall@K of the unflipped photographs, as the original study counted."""
    columns = (table[name].to_numpy(dtype=str) for name in ("individual", "part"))
    individuals, parts = columns
    return study_recall(views["plain"], individuals=individuals, parts=parts)


def write_scores(evaluation: Evaluation, folder: Path) -> None:
    """Writes retrieval.csv, a row a setting, and queries.parquet, a row a query."""
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
    """Whether a finished trial's result was chosen among these settings by this objective."""
    return bool(record.result.get("scored_with") == scoring.of(record.kind).written())


def rescore(record: Record, scoring: Scoring) -> Evaluation:
    """The scores of a finished trial by `scoring`, from its stored embeddings. Nothing is trained or written."""
    views, table = read_embeddings(record.folder)
    proxies = proxies_to_score(record, scoring.retrieval)
    return score_trial(views, table, scoring=scoring, settings=record.settings, proxies=proxies)


def rescore_for_good(record: Record, scoring: Scoring) -> None:
    """Scores a finished trial for these settings and writes what it now says, result.json last."""
    scoring = scoring.of(record.kind)
    evaluation = rescore(record, scoring)
    write_scores(evaluation, record.folder)
    write_result(record.folder, {**record.result, **figures_of(evaluation, scoring)})


def score_again(run: Path, options: Sequence[str]) -> pd.DataFrame:
    """The leaderboard of a run as other retrieval settings give it, each trial's choice among them cross-fitted.

    options: retrieval axes as `vote=[nearest, softmax]`; those not named are the sweep's own. Written to
    `run`/rescored: leaderboard.csv and retrieval.csv, a row a trial and setting. The run's own files stay as they are.
    Raises: InputError for another option, a folder that is no run, no finished trial, embeddings that cannot be read.
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
