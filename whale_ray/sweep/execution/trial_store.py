"""Trial store: opens the trials of a run folder for one sweep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whale_ray.sweep.analysis.rescoring import rescore_for_good
from whale_ray.sweep.config.sweep_spec import Sweep
from whale_ray.sweep.config.trial_identity import trial_identity
from whale_ray.sweep.execution.outcome_recorder import TrialOutcomes
from whale_ray.sweep.execution.trial_queue import TrialQueue
from whale_ray.sweep.planning.early_stopping import EarlyStopping
from whale_ray.sweep.planning.optuna_study import Study
from whale_ray.sweep.planning.resume import notes_on_epochs, refuse_other_data
from whale_ray.sweep.planning.study_feedback import StudyFeedback
from whale_ray.sweep.planning.trial_points import first_settings
from whale_ray.sweep.run_folder.record_index import RecordIndex
from whale_ray.sweep.run_folder.records import Record
from whale_ray.sweep.run_folder.sweep_clock import SweepClock
from whale_ray.sweep.run_folder.sweep_identity import sweep_identity
from whale_ray.sweep.trials.ensemble import forget_unfinished
from whale_ray.sweep.trials.scoring import Scoring, is_scored_by, scoring_of


@dataclass(frozen=True)
class TrialStore:
    """The trials of one sweep in its run folder. The folder alone is enough to resume.

    Attributes:
        sweep: The sweep.
        index: Records of all trials.
        queue: Trials that are still to run.
        outcomes: Records the outcome of trials.
        clock: Hours that all sessions of the sweep have taken.
        early_stopping: Early stopping over all trials; None if the sweep has no scheduler.
        rescored: Number of trials that were scored again, for other settings or by a newer version.
        notes: What the user should know about the run folder, a line each.
        fetch: Downloads what a worker on another node has published of a trial, given the number of epochs that it
            has reported.
        fetch_weights: Downloads the weights of a finished trial.
    """

    sweep: Sweep
    index: RecordIndex
    queue: TrialQueue
    outcomes: TrialOutcomes
    clock: SweepClock
    early_stopping: EarlyStopping | None
    rescored: int
    notes: tuple[str, ...]
    fetch: Callable[[str, int], None] = lambda trial, epochs: None
    fetch_weights: Callable[[str], None] = lambda trial: None

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.index.folder

    @property
    def objective(self) -> str:
        """The score that the search maximizes."""
        return self.sweep.objective

    def with_weights(self, trial: str) -> Record:
        """Return the record of a finished trial after its weights were downloaded."""
        self.fetch_weights(trial)
        return self.index.get(trial)

    def may_continue(self, trial: str, figures: Mapping[str, Any]) -> bool:
        """Return whether early stopping lets a trial train further.

        Args:
            trial: ID of the trial.
            figures: Figures of the epoch that it has just finished.
        """
        return self.early_stopping is None or self.early_stopping.may_continue(self.index.get(trial), figures)


def open_trial_store(sweep: Sweep, folder: Path, *, data_fingerprint: str) -> TrialStore:
    """Open the trials of a run folder and bring the study and the scores up to date.

    Finished trials are scored again if the sweep has other retrieval settings, or an earlier version scored them.

    Args:
        sweep: The sweep.
        folder: Its run folder; the trials in it may be of earlier versions of the sweep.
        data_fingerprint: Fingerprint of the photographs and labels.

    Raises:
        InputError: If trials in the folder were scored on other photographs or another split, or a file of a trial is
            damaged.
    """
    forget_unfinished(folder)
    index = RecordIndex(folder)
    refuse_other_data(index.records(), first_settings(sweep), fingerprint=data_fingerprint, folder=folder)
    rescored, kept = _rescore(sweep, index)
    notes = [*notes_on_epochs(sweep, index.records())]
    if kept:
        notes.append(f"trials that keep the scores of an earlier version, since they have no embeddings: {kept}")

    def is_known(point: Mapping[str, Any]) -> bool:
        return trial_identity(sweep.settings(dict(point)), data_fingerprint=data_fingerprint) in index

    sweep_id = sweep_identity(folder, sweep.name).id
    study = Study(sweep, folder / "study.db", begun=index.ids(), known=is_known, sweep_id=sweep_id)
    if study.damaged:
        notes.append(
            f"study.db was damaged; it is kept as {study.damaged}, and a new one was made from the trial folders"
        )
    feedback = StudyFeedback(study, objective=sweep.objective, also=sweep.also)
    clock = SweepClock(folder / "clock.json")
    queue = TrialQueue(sweep, index, study, feedback, clock, data_fingerprint=data_fingerprint)
    early = EarlyStopping(sweep, index.records()) if sweep.fixed["search.scheduler"] == "asha" else None
    for record in index.records():
        feedback.adopt(record)
    outcomes = TrialOutcomes(sweep, index, queue, feedback)
    return TrialStore(sweep, index, queue, outcomes, clock, early, rescored, tuple(notes))


def _rescore(sweep: Sweep, index: RecordIndex) -> tuple[int, int]:
    """Score finished trials again that were scored otherwise; return the numbers of these and of those that cannot be.

    A trial without embeddings keeps its scores if only their version differs and they include the objective.
    """
    scoring = scoring_of(sweep)
    finished = [record for record in index.records() if record.status == "finished"]
    stale = [record for record in finished if not is_scored_by(scoring, record)]
    kept = [record.trial for record in stale if _must_keep_scores(scoring, record)]
    again = [record for record in stale if record.trial not in kept]
    for record in again:
        rescore_for_good(record, scoring)
    index.reload_all(record.trial for record in again)
    return len(again), len(kept)


def _must_keep_scores(scoring: Scoring, record: Record) -> bool:
    if (record.folder / "embeddings.npz").exists() or record.result.get(scoring.objective) is None:
        return False
    wanted = scoring.of(record.kind).written()
    return bool(wanted == {**record.result.get("scored_with", {}), "definition": wanted["definition"]})
