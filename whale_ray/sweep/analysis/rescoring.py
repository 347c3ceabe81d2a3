"""Scores of finished trials for other retrieval settings, computed from their stored embeddings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from whale_ray.atomic_files import write_atomically
from whale_ray.errors import InputError
from whale_ray.learning.losses.proxy_extraction import PROXY_LOSSES
from whale_ray.retrieval.evaluation.evaluate import Evaluation, RetrievalSetting
from whale_ray.sweep.config.sweep_spec import load_sweep
from whale_ray.sweep.run_folder.leaderboard import leaderboard, write_leaderboard
from whale_ray.sweep.run_folder.records import Record, read_records, sweep_file, write_result
from whale_ray.sweep.trials.class_proxies import SplitProxies
from whale_ray.sweep.trials.embeddings_io import read_embeddings, read_proxies
from whale_ray.sweep.trials.ensemble import MEMBERS_BY_FOLD
from whale_ray.sweep.trials.scoring import Scoring, figures_of, score_trial, scoring_of, write_scores


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
            "trained it. Take classifier_weight: 0, or train again with --fresh"
        )
    return proxies


def rescore(record: Record, scoring: Scoring) -> Evaluation:
    """Return the scores of a finished trial from its stored embeddings; nothing is written.

    Args:
        record: The trial.
        scoring: Retrieval settings and objective.
    """
    views, table = read_embeddings(record.folder)
    if any(one.side != "any" for one in scoring.retrieval) and not table["viewpoint"].astype(bool).any():
        raise InputError(
            f"retrieval.side needs viewpoints, but trial {record.trial} has none: its photographs had none, or an "
            "earlier version embedded them. Name data.view_column and run the sweep again, or take side: any"
        )
    proxies = proxies_to_score(record, scoring.retrieval)
    run = record.folder.parents[1]
    return score_trial(views, table, scoring=scoring, settings=record.settings, run=run, proxies=proxies)


def rescore_for_good(record: Record, scoring: Scoring) -> None:
    """Score a finished trial again and write its files, result.json last.

    Args:
        record: The trial.
        scoring: Retrieval settings and objective of the sweep.
    """
    scoring = scoring.of(record.kind)
    evaluation = rescore(record, scoring)
    write_scores(evaluation, record.folder)
    dropped = ("fusion", "reason", MEMBERS_BY_FOLD)
    kept = {name: value for name, value in record.result.items() if name not in dropped}
    write_result(record.folder, {**kept, **figures_of(evaluation, scoring)})


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
    sweep = load_sweep(sweep_file(run), [f"retrieval.{option}" for option in options], is_recorded=True)
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
