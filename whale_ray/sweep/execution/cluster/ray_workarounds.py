"""Workarounds for Ray 2.60, one name each. tests/sweep/test_ray_workarounds.py fails when one is needed no longer."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from whale_ray.ray_private import SOCKET_POLLING

_ENVIRONMENT = {
    **SOCKET_POLLING,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    # The run folder holds the curves; Tune's CSV and TensorBoard loggers would write them a second time.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Ctrl-C is handled by sweep.command. Tune's own handler replaces it and restores nothing (ray#17308, ray#52898).
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # An epoch that is not evaluated has no score, but Tune stops the sweep at such an epoch (ray#10972, ray#15876).
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "2",
    # Tune writes and copies the state of all trials every ten seconds, for a `Tuner.restore` that no sweep uses.
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    # By default a searcher of our own has one waiting trial, so the workers of a cluster start one after the other.
    # QueueSearcher hands out no more trials than there are places.
    "TUNE_MAX_PENDING_TRIALS_PG": "1000000",
    # Otherwise Tune itself starts a trial again whose node was drained, without a callback.
    "RAY_TRAIN_COUNT_PREEMPTION_AS_FAILURE": "1",
}


def set_ray_environment() -> None:
    """Set the environment variables that Ray and Tune read when they are imported or started."""
    os.environ |= _ENVIRONMENT


class NoTuneState:
    """Mixin: Tune pickles nothing of the object.

    `tune.Tuner` pickles its searcher, scheduler, callbacks and stopper into tuner.pkl although no sweep is ever
    restored from that file; threads and database connections cannot be pickled (ray#15678).
    """

    def __getstate__(self) -> dict[str, Any]:
        return {}


class FailedResets:
    """Finds trials that Tune has given up without telling searcher, scheduler or callbacks.

    With `reuse_actors=True` a worker takes the next trial only if the thread of the last one ends within
    TUNE_FUNCTION_THREAD_TIMEOUT_S. If it does not, `TuneController._on_trial_reset` sets the status ERROR and calls no
    `on_trial_error`; a `ConcurrencyLimiter` counts the trial as running until the end. No issue is open for it.
    """

    def __init__(self) -> None:
        self._known: set[str] = set()

    def mark_reported(self, trial: Any) -> None:
        """Exclude a `ray.tune.experiment.Trial` whose failure a callback has reported."""
        self._known.add(trial.trial_id)

    def find(self, trials: Sequence[Any]) -> list[Any]:
        """Return the trials that have failed since the last call without a report.

        Args:
            trials: All trials of the Tune experiment.
        """
        found = [trial for trial in trials if trial.status == "ERROR" and trial.trial_id not in self._known]
        self._known.update(trial.trial_id for trial in found)
        return found


def forget_metrics(trial: Any) -> None:
    """Drop what Tune has computed from the reports of a trial that has ended: nothing reads it, and it stays in memory.

    For each figure, Tune keeps extremes, means and two queues, together about 90 KiB per trial.

    Args:
        trial: The `ray.tune.experiment.Trial`.
    """
    trial.run_metadata.metric_analysis.clear()
    trial.run_metadata.metric_n_steps.clear()


def keep_idle_worker(controller: Any, *, keep: bool) -> None:
    """Set whether Tune keeps a worker that has ended its trial while no other trial waits.

    With `reuse_actors=True` Tune keeps one such worker until the search has ended, and with it the reservation on its
    node, which an autoscaler then cannot remove. No setting changes that.

    Args:
        controller: The `ray.tune.execution.tune_controller.TuneController`.
        keep: Keep it for a trial that may follow.
    """
    controller._actor_cache._may_keep_one = keep


@contextlib.contextmanager
def kept_sigterm_handler() -> Iterator[None]:
    """Keep this process's SIGTERM handler: `ray.init` replaces it by one that exits at once (ray#17308)."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
