"""Ensemble of the best trials: embeddings concatenated, scored like a trial and listed in the leaderboard."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from whale_ray.device import available_cpus
from whale_ray.learning.encoders.ensemble import join_encoders
from whale_ray.retrieval.evaluation.evaluate import Evaluation
from whale_ray.sweep.run_folder.checkpoints import RECIPE, WEIGHTS, load_weights, save_weights
from whale_ray.sweep.run_folder.leaderboard import finished_trials
from whale_ray.sweep.run_folder.records import Record, read_record, read_records, write_record, write_result
from whale_ray.sweep.trials.embeddings_io import Views, embeddings_bytes, read_embeddings, write_embeddings
from whale_ray.sweep.trials.scoring import Scoring, figures_of, score_trial, write_scores

KIND = "ensemble"
MEMBERS = "members"
MEMBERS_BY_FOLD = "members_by_fold"
"""Entry of result.json: the members that the queries outside each fold choose."""
_MOST_BYTES = 2**29  # of all embeddings that are scored at once: an evaluation takes several times as much memory


def ranked_trials(table: pd.DataFrame, records: Sequence[Record]) -> list[Record]:
    """Return the finished trials that an ensemble may join, best first, without baselines and repeats.

    Args:
        table: The leaderboard.
        records: The trials.
    """
    by_id = {record.trial: record for record in records if record.kind == "trial"}
    return [by_id[trial] for trial in finished_trials(table) if trial in by_id]


def choose_members(ranked: Sequence[Record], count: int) -> list[Record]:
    """Return the trials to join: the best of each encoder, then the others, best first.

    Only trials with the image size and resize mode of the best one can be joined.

    Args:
        ranked: The trials, best first.
        count: Number of members; fewer are returned if there are no more.
    """
    alike = [record for record in ranked if _pictures(record) == _pictures(ranked[0])]
    first_of = {record.settings["model"]["encoder"]: record for record in reversed(alike)}
    leading = [record for record in alike if record is first_of[record.settings["model"]["encoder"]]]
    return [*leading, *(record for record in alike if record not in leading)][:count]


def make_ensemble(
    members: Sequence[Record],
    run: Path,
    scoring: Scoring,
    *,
    score: Callable[[Sequence[Record]], ScoredEnsemble] | None = None,
) -> Record | None:
    """Score the ensemble of trials and return its record; None with fewer than two members.

    Args:
        members: The trials to join.
        run: The run folder.
        scoring: Retrieval settings and objective.
        score: Returns the scores of members; None for `score_members`.
    """
    if len(members) < 2:
        return None
    folder = ensemble_folder(members, run)
    if not (folder / "result.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        _score(members, folder, scoring, score or (lambda members: score_members(members, scoring)))
    return read_record(folder)


def ensemble_folder(members: Sequence[Record], run: Path) -> Path:
    """Return the folder of the ensemble of trials.

    Args:
        members: The trials to join.
        run: The run folder.
    """
    names = json.dumps([member.trial for member in members])
    return run / "trials" / f"{KIND}-{hashlib.sha256(names.encode()).hexdigest()[:8]}"


def forget_unfinished(run: Path) -> None:
    """Remove an ensemble whose scoring was interrupted; it is made again from its members."""
    for record in read_records(run):
        if record.kind == KIND and record.status == "running":
            shutil.rmtree(record.folder)


@dataclass(frozen=True)
class ScoredEnsemble:
    """Joined embeddings of trials, their table and scores."""

    views: Views
    table: pd.DataFrame
    evaluation: Evaluation


def score_members(members: Sequence[Record], scoring: Scoring) -> ScoredEnsemble:
    """Return the joined embeddings of trials and their scores; nothing is written.

    Args:
        members: The trials to join.
        scoring: Retrieval settings and objective.
    """
    views, table = _join_embeddings([member.folder for member in members])
    run, settings = members[0].folder.parents[1], members[0].settings
    return ScoredEnsemble(views, table, score_trial(views, table, scoring=scoring, settings=settings, run=run))


class EnsembleScorer:
    """Scores several ensembles at once, each on a thread, so that no core waits for the last one.

    Within the block, BLAS has one ensemble's share of the cores. The scores are those of `score_members`. The threads
    are daemons, so that Ctrl-C need not wait for them.

    Args:
        scoring: Retrieval settings and objective.
    """

    def __init__(self, scoring: Scoring) -> None:
        self.scoring = scoring
        self._begun: dict[tuple[str, ...], Future[ScoredEnsemble]] = {}
        self._limits = ExitStack()

    def __enter__(self) -> EnsembleScorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._limits.close()

    def begin(self, ensembles: Sequence[Sequence[Record]]) -> None:
        """Begin to score ensembles, if there are several, free cores and enough memory for all of them.

        Args:
            ensembles: The members of each.
        """
        size = sum(embeddings_bytes(member.folder) for members in ensembles for member in members)
        cpus = available_cpus()
        if min(len(ensembles), cpus) < 2 or size > _MOST_BYTES:
            return
        self._limits.enter_context(threadpool_limits(max(1, cpus // len(ensembles)), user_api="blas"))
        for members in ensembles:
            future = self._begun[_names(members)] = Future()
            threading.Thread(target=self._work, args=(members, future), name="ensemble", daemon=True).start()

    def _work(self, members: Sequence[Record], future: Future[ScoredEnsemble]) -> None:
        try:
            future.set_result(score_members(members, self.scoring))
        except BaseException as error:
            future.set_exception(error)

    def score(self, members: Sequence[Record]) -> ScoredEnsemble:
        """Return the joined embeddings of trials and their scores; nothing is written.

        Args:
            members: The trials to join.
        """
        begun = self._begun.pop(_names(members), None)
        return begun.result() if begun else score_members(members, self.scoring)


def _names(members: Sequence[Record]) -> tuple[str, ...]:
    return tuple(member.trial for member in members)


def join_members(members: Sequence[Path], folder: Path) -> tuple[Views, pd.DataFrame]:
    """Join the embeddings of trials and, if all kept them, their weights; write and return views and table.

    Args:
        members: Folders of the trials.
        folder: Folder of the ensemble.
    """
    views, table = _join_embeddings(members)
    _join_weights(members, folder)
    write_embeddings(views, table, folder)
    return views, table


def _join_embeddings(members: Sequence[Path]) -> tuple[Views, pd.DataFrame]:
    read = [read_embeddings(member) for member in members]
    return {name: _joined([views[name] for views, _ in read]) for name in ("plain", "flip")}, read[0][1]


def _join_weights(members: Sequence[Path], folder: Path) -> None:
    checkpoints = [member / "checkpoint" for member in members]
    if all((checkpoint / WEIGHTS).exists() for checkpoint in checkpoints):
        recipes = [json.loads((checkpoint / RECIPE).read_text()) for checkpoint in checkpoints]
        weights = [load_weights(checkpoint / WEIGHTS) for checkpoint in checkpoints]
        save_weights(*join_encoders(recipes, weights), folder / "checkpoint")


def _score(
    members: Sequence[Record], folder: Path, scoring: Scoring, score: Callable[[Sequence[Record]], ScoredEnsemble]
) -> None:
    settings = {**members[0].settings, MEMBERS: [member.trial for member in members]}
    write_record(folder, kind=KIND, point={}, settings=settings, data_fingerprint=members[0].data_fingerprint)
    _join_weights([member.folder for member in members], folder)
    scored = score(members)
    write_embeddings(scored.views, scored.table, folder)
    write_scores(scored.evaluation, folder)
    sums = {
        name: sum(member.result.get(name) or 0 for member in members)
        for name in ("epochs", "seconds", "milliseconds_per_image")
    }
    ended = {"status": "finished", "error": "", "embedding_size": scored.views["plain"].shape[1]}
    write_result(folder, {**figures_of(scored.evaluation, scoring), **sums, **ended})


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the concatenated unit vectors, scaled to unit length, float16."""
    side_by_side = np.concatenate(parts, axis=1).astype(np.float32) / np.sqrt(len(parts))
    return np.asarray(side_by_side, dtype=np.float16)


def _pictures(record: Record) -> tuple[object, object]:
    return record.settings["data"]["image_size"], record.settings["data"]["resize"]
