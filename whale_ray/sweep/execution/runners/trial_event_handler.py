"""Reactions of the driver to the events of a trial: start, epoch, end. All runners share them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Protocol

from whale_ray.atomic_files import write_atomically
from whale_ray.sweep.execution.console import Progress
from whale_ray.sweep.execution.trial_store import TrialStore
from whale_ray.sweep.planning.trial_points import epochs_of, label
from whale_ray.sweep.report.live import LiveReport
from whale_ray.sweep.run_folder.heartbeat import drop_heartbeat, write_heartbeat


class MetricsExporter(Protocol):
    """Exports the state of a sweep to a monitoring system."""

    def started(self, trial: str, label: str, *, epochs: int) -> None:
        """Count a trial as running."""

    def epoch(self, trial: str, figures: Mapping[str, Any]) -> None:
        """Export the figures of an epoch."""

    def ended(self, trial: str, *, status: str, score: float | None) -> None:
        """Count the outcome of a trial."""

    def repeat_if_due(self) -> None:
        """Export the present state again, if that is needed."""


class TrialEventHandler:
    """Records what trials do in the trial store and shows it.

    Args:
        store: The trials of the sweep.
        progress: Display of the sweep.
        stopping: Set when the sweep is to end; set here when a trial cannot write to its disk.
        report: The report of the running sweep.
        metrics: Exporter of the sweep's metrics; None exports nothing.
    """

    def __init__(
        self,
        store: TrialStore,
        progress: Progress,
        stopping: threading.Event,
        report: LiveReport,
        metrics: MetricsExporter | None = None,
    ) -> None:
        self._store, self._progress, self._stopping = store, progress, stopping
        self._report, self._metrics = report, metrics
        self._unplaced: set[str] = set()
        self._elsewhere: dict[str, int] = {}  # the last epoch that each trial on another node has reported

    def started(self, trial: str) -> None:
        """Show a trial that begins."""
        record = self._store.index.get(trial)
        setting = label(record.point, kind=record.kind)
        self._progress.started(trial, setting)
        if self._metrics:
            self._metrics.started(trial, setting, epochs=epochs_of(record.settings))

    def epoch(self, trial: str, figures: Mapping[str, Any]) -> None:
        """Show the figures of an epoch; stop the sweep if the trial's disk is full.

        Args:
            trial: ID of the trial.
            figures: Epoch, loss, scores and speed; `no_room` with the reason if nothing can be written; `elsewhere` if
                the trial publishes its files from another node.
        """
        if figures.get("elsewhere"):
            self._elsewhere[trial] = 0 if figures.get("done") else int(figures["epoch"])
        if reason := figures.get("no_room"):
            self._stopping.set()
            self._progress.say(f"trial {trial} cannot write to its disk: {reason}")
        if note := figures.get("note"):
            self._progress.say(f"trial {trial}: {note.splitlines()[0]}")
        self._progress.epoch(trial, figures)
        if self._metrics:
            self._metrics.epoch(trial, figures)

    def heartbeat(self, trial: str, place: Mapping[str, Any]) -> None:
        """Write the heartbeat of a trial on another node into its folder, where stalled trials are looked for.

        Args:
            trial: ID of the trial.
            place: Process (`pid`) and Ray node (`node`) of the trial.
        """
        self._elsewhere.setdefault(trial, 0)
        write_heartbeat(self._store.index.trial_folder(trial), place)

    def unplaced(self, trial: str) -> None:
        """Mark a trial that cannot train on its node; it is queued again when it ends."""
        self._unplaced.add(trial)

    def repeat_metrics(self) -> None:
        """Keep the exported metrics from vanishing; called several times a second."""
        if self._metrics:
            self._metrics.repeat_if_due()

    def ended(self, trial: str) -> None:
        """Record a trial that ended by itself or was stopped."""
        if trial in self._unplaced:
            self._unplaced.remove(trial)
            self._store.queue.run_again(trial)
            return
        # An interrupted worker may be killed before it has published what it reported.
        self.fetch(trial, epochs=0 if self._stopping.is_set() else self._elsewhere.get(trial, 0))
        if self._store.queue.requeue_alone(trial):
            self._progress.say(f"trial {trial} did not fit beside others, and will run again alone on a whole GPU")
        elif self._store.index.reload(trial).status != "running" or not self._stopping.is_set():
            self._settle(trial, status="pruned")

    def failed(self, trial: str, *, error: str, details: str) -> None:
        """Record a failed trial whose worker wrote no result.

        Args:
            trial: ID of the trial.
            error: Reason, one line.
            details: Text of traceback.txt.
        """
        self.fetch(trial)
        write_atomically(self._store.index.trial_folder(trial) / "traceback.txt", f"{details}\n")
        self._settle(trial, status="failed", error=error)

    def fetch(self, trial: str, *, epochs: int = 0) -> None:
        """Download the files of a trial that ran on another node; without them, stop before it is recorded.

        Args:
            trial: ID of the trial.
            epochs: Number of epochs whose files its worker is about to publish; they are awaited.
        """
        if trial not in self._elsewhere:
            return
        drop_heartbeat(self._store.index.trial_folder(trial))
        try:
            self._store.fetch(trial, epochs)
            del self._elsewhere[trial]
        except OSError as error:
            self._stopping.set()
            self._progress.say(f"the files of trial {trial} cannot be downloaded: {error}")

    def _settle(self, trial: str, *, status: str, error: str = "") -> None:
        record = self._store.outcomes.settle(trial, status=status, error=error)
        score, reason = record.result.get(self._store.objective), record.result.get("error", "")
        self._progress.ended(record.trial, status=record.status, score=score, error=reason)
        if self._metrics:
            self._metrics.ended(record.trial, status=record.status, score=score)
        self._report.changed()
