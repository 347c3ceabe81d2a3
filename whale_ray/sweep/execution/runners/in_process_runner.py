"""Runs trials one after another in this process, without Ray: for debuggers, tests and very small sweeps."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from whale_ray.device import restored_threads
from whale_ray.sweep.execution.console import Progress
from whale_ray.sweep.execution.runners.trial_event_handler import TrialEventHandler
from whale_ray.sweep.execution.trial_store import TrialStore
from whale_ray.sweep.report.live import LiveReport
from whale_ray.sweep.run_folder.disk_space import DiskSpaceGate
from whale_ray.sweep.trial_reports import ReportKind, kind_of
from whale_ray.sweep.trials.trial_run import SweepContext
from whale_ray.sweep.trials.worker import run_trial


class _TrialStopped(BaseException):
    """Leaves a trial that early stopping or the user has ended. No `except Exception` of the trial catches it."""


def run_trials_in_process(store: TrialStore, job: SweepContext, progress: Progress, stopping: threading.Event) -> None:
    """Run all trials that are left in this process, in the order of the queue.

    A trial that stalls or crashes takes the process with it; Ray Tune's runner survives that.

    Args:
        store: The trials of the sweep.
        job: What all trials share.
        progress: Display of the sweep.
        stopping: When it is set, the running trial ends after its epoch and keeps its last checkpoint.
    """
    gate = DiskSpaceGate(store.folder, minimum=store.sweep.fixed["resources.min_free_gb"], say=progress.say)
    with LiveReport(store.folder, say=progress.say) as report, restored_threads():
        events = TrialEventHandler(store, progress, stopping, report)
        trials = store.queue.trials()
        while not stopping.is_set():
            if gate.is_full():
                stopping.wait(1.0)
                continue
            trial = next(trials, None)
            if trial is None:
                return
            _run(trial, store, job, events, stopping)


def _run(
    trial: str, store: TrialStore, job: SweepContext, events: TrialEventHandler, stopping: threading.Event
) -> None:
    def report(figures: dict[str, Any]) -> None:
        events.epoch(trial, figures)
        store.clock.save_if_due()
        if kind_of(figures) is ReportKind.EPOCH and (stopping.is_set() or not store.may_continue(trial, figures)):
            raise _TrialStopped

    events.started(trial)
    with contextlib.suppress(_TrialStopped):
        run_trial(trial, job, report=report, node="")
    events.ended(trial)
