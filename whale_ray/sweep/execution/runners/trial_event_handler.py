"""Reactions of the driver to the events of a trial: start, epoch, end. All runners share them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import pyarrow

from whale_ray.atomic_files import write_atomically
from whale_ray.errors import first_line
from whale_ray.file_errors import is_disk_full
from whale_ray.sweep.execution.console import Progress
from whale_ray.sweep.execution.trial_store import TrialStore
from whale_ray.sweep.planning.trial_points import epochs_of, label
from whale_ray.sweep.report.live import LiveReport
from whale_ray.sweep.run_folder.heartbeat import drop_heartbeat, write_heartbeat
from whale_ray.sweep.trial_reports import ReportKind, kind_of

RETRY_SECONDS = 10.0
GIVE_UP_SECONDS = 600.0


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


class _Unfetched(NamedTuple):
    """A trial that has ended, but whose files are in a run store that does not answer.

    Attributes:
        epochs: Number of epochs to wait for.
        record: Records its outcome when the files are here.
        since: When the first download failed.
    """

    epochs: int
    record: Callable[[], None]
    since: float


class TrialEventHandler:
    """Records what trials do in the trial store and shows it.

    A trial whose files cannot be downloaded keeps its place: another one could not begin without the storage.

    Args:
        store: The trials of the sweep.
        progress: Display of the sweep.
        stopping: Set when the sweep is to end; set here when a trial cannot write its files, or they cannot be
            downloaded for 10 minutes.
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
        self._finished: set[str] = set()  # trials whose workers have reported the end
        self._elsewhere: dict[str, int] = {}  # the last epoch that each trial on another node has reported
        self._unfetched: dict[str, _Unfetched] = {}
        self._next_try = 0.0

    def started(self, trial: str) -> None:
        """Show a trial that begins."""
        self._finished.discard(trial)
        record = self._store.index.get(trial)
        setting = label(record.point, kind=record.kind)
        self._progress.started(trial, setting)
        if self._metrics:
            self._metrics.started(trial, setting, epochs=epochs_of(record.settings))

    def epoch(self, trial: str, figures: Mapping[str, Any]) -> None:
        """Show the figures of an epoch; stop the sweep if the trial cannot write its files.

        Args:
            trial: ID of the trial.
            figures: Epoch, loss, scores and speed; `no_room` with the reason if nothing can be written; `elsewhere` if
                the trial publishes its files from another node.
        """
        is_end = kind_of(figures) is ReportKind.END
        if figures.get("elsewhere"):
            self._elsewhere[trial] = 0 if is_end else int(figures["epoch"])
        if is_end:
            self._finished.add(trial)
        if reason := figures.get("no_room"):
            self._stopping.set()
            self._progress.say(f"trial {trial} cannot write its files: {reason}")
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
        epochs = 0 if self._stopping.is_set() else self._elsewhere.get(trial, 0)
        self._when_fetched(trial, lambda: self._record_end(trial), epochs=epochs)

    def lost(self, trial: str, *, may_retry: bool, error: str = "", details: str = "", note: str = "") -> None:
        """Queue a trial again that has lost its worker, or record its failure.

        Args:
            trial: ID of the trial.
            may_retry: Queue it again.
            error: Reason of the failure, one line.
            details: Text of traceback.txt.
            note: Line to print if it is queued again.
        """

        def record() -> None:
            if self._stopping.is_set() or self._store.index.reload(trial).status != "running":
                self.ended(trial)
            elif may_retry:
                self._store.queue.run_again(trial)
                if note:
                    self._progress.say(note)
            else:
                write_atomically(self._store.index.trial_folder(trial) / "traceback.txt", f"{details}\n")
                self._settle(trial, status="failed", error=error)

        self._when_fetched(trial, record)

    def settle(self) -> None:
        """Record trials whose files could not be downloaded before; called several times a second."""
        if time.monotonic() < self._next_try:
            return
        for trial, (epochs, record, since) in list(self._unfetched.items()):
            if self._fetch(trial, epochs, since=since):
                del self._unfetched[trial]
                record()
                continue
            if self._stopping.is_set():  # the next session downloads them
                self._unfetched.clear()
            return

    def _when_fetched(self, trial: str, record: Callable[[], None], *, epochs: int = 0) -> None:
        """Record the outcome of a trial when its files are here; if they cannot be downloaded, `settle` tries again.

        Args:
            trial: ID of the trial.
            record: Records its outcome.
            epochs: Number of epochs whose files its worker is about to publish; they are awaited.
        """
        begun = time.monotonic()
        if self._fetch(trial, epochs, since=begun):
            record()
        elif not self._stopping.is_set():
            self._unfetched[trial] = _Unfetched(epochs, record, begun)

    def _fetch(self, trial: str, epochs: int, *, since: float) -> bool:
        """Download the files of a trial that ran on another node, and return whether they are here."""
        if trial not in self._elsewhere:
            return True
        drop_heartbeat(self._store.index.trial_folder(trial))
        try:
            self._store.fetch(trial, epochs)
        except (OSError, pyarrow.ArrowException) as error:
            self._next_try = time.monotonic() + RETRY_SECONDS
            self._report_unfetched(trial, error, since)
            return False
        del self._elsewhere[trial]
        return True

    def _report_unfetched(self, trial: str, error: Exception, since: float) -> None:
        if is_disk_full(error) or time.monotonic() - since > GIVE_UP_SECONDS:
            self._stopping.set()
        if self._stopping.is_set() or trial not in self._unfetched:
            outlook = "The same command downloads them" if self._stopping.is_set() else "They are tried again"
            self._progress.say(f"the files of trial {trial} cannot be downloaded: {first_line(error)}. {outlook}")

    def _record_end(self, trial: str) -> None:
        if self._store.queue.requeue_alone(trial):
            self._progress.say(f"trial {trial} did not fit beside others, and will run again alone on a whole GPU")
        elif self._store.index.reload(trial).status != "running" or not self._stopping.is_set():
            error = "its worker has reported the end, but there is no result" if trial in self._finished else ""
            self._settle(trial, status="failed" if error else "pruned", error=error)

    def _settle(self, trial: str, *, status: str, error: str = "") -> None:
        record = self._store.outcomes.settle(trial, status=status, error=error)
        score, reason = record.result.get(self._store.objective), record.result.get("error", "")
        self._progress.ended(record.trial, status=record.status, score=score, error=reason)
        if self._metrics:
            self._metrics.ended(record.trial, status=record.status, score=score)
        self._report.changed()
