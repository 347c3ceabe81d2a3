"""Runs trials with Ray Tune: a searcher, a scheduler, a callback and a stopper that use the trial store.

Tune starts workers, restarts lost ones and passes on their reports. Its own state on disk is never read; the run
folder is the state of a sweep.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from typing import Any

from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from whale_ray.atomic_files import write_atomically
from whale_ray.sweep.execution.console import Progress
from whale_ray.sweep.execution.prometheus import Metrics
from whale_ray.sweep.execution.ray_cluster import check_gpu, count_trial_slots, end_worker
from whale_ray.sweep.execution.ray_workarounds import FailedResets, NoTuneState
from whale_ray.sweep.execution.trial_store import TrialStore
from whale_ray.sweep.planning.dry_run import planned_runs
from whale_ray.sweep.planning.trial_settings import epochs_of, label
from whale_ray.sweep.report.live import LiveReport
from whale_ray.sweep.run_folder.disk_space import free_gigabytes
from whale_ray.sweep.run_folder.heartbeat import StallDetector, read_heartbeat
from whale_ray.sweep.run_folder.records import NEEDS_WHOLE_GPU
from whale_ray.sweep.trials.ray_worker import run_trial
from whale_ray.sweep.trials.trial_run import SweepContext

MAX_WORKER_LOSSES = 2
_MAX_STALLS = 2


def run_trials(store: TrialStore, job: SweepContext, progress: Progress, stopping: threading.Event) -> None:
    """Run all trials that are left, on the cluster that Ray is connected to.

    Args:
        store: The trials of the sweep.
        job: What all trials share; sent to the workers once.
        progress: Display of the sweep.
        stopping: When it is set, running trials end and keep their last checkpoint.

    Raises:
        InputError: If one trial does not fit on the cluster, or torch cannot use its GPU.
    """
    fixed = store.sweep.fixed
    share = {"CPU": fixed["resources.cpus"], "GPU": fixed["resources.gpus"]}
    max_running = count_trial_slots(share)
    check_gpu(share["GPU"], say=progress.say, stopping=stopping)
    trainable = tune.with_parameters(run_trial, context=job)
    trainable.__name__ = f"{store.sweep.name}: a trial at a time"  # name of the actors in Ray's dashboard
    with (
        tempfile.TemporaryDirectory(prefix="whale_ray_tune_") as scratch,
        LiveReport(store.folder, say=progress.say) as report,
    ):
        tune.Tuner(
            tune.with_resources(trainable, lambda config: share | ({"GPU": 1} if config["alone"] else {})),
            tune_config=tune.TuneConfig(
                search_alg=_QueueSearcher(store, progress, stopping, max_running=max_running),
                scheduler=_EarlyStoppingScheduler(store),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=_trial_id,
                trial_dirname_creator=_trial_id,
            ),
            run_config=tune.RunConfig(
                name=store.sweep.name,
                storage_path=scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=MAX_WORKER_LOSSES),
                callbacks=[_OutcomeCallback(store, progress, stopping, _metrics(store), report)],
                stop=_EventStopper(stopping),
            ),
        ).fit()


def _metrics(store: TrialStore) -> Metrics:
    ended = [record for record in store.index.records() if record.status != "running"]
    return Metrics(
        sweep=store.sweep.name,
        objective=store.objective,
        total=planned_runs(store.sweep),
        before=[(record.status, record.result.get(store.objective)) for record in ended],
    )


def _trial_id(trial: Any) -> str:
    return str(trial.config["trial"])


class _QueueSearcher(NoTuneState, Searcher):
    """Suggests the next trial of the queue while fewer than `max_running` run and the disk is not full.

    The queue counts the running trials: Tune's `max_concurrent_trials` keeps counting a trial whose worker could not
    be reset (see `FailedResets`).
    """

    def __init__(self, store: TrialStore, progress: Progress, stopping: threading.Event, *, max_running: int) -> None:
        super().__init__()
        self._store, self._progress, self._stopping = store, progress, stopping
        self._max_running = max_running
        self._ids: Iterator[str | None] = store.queue.trials()
        self._paused = False

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the config of the next trial, None if it has to wait, or `Searcher.FINISHED`."""
        if self._stopping.is_set():
            return str(Searcher.FINISHED)
        if len(self._store.queue.running) >= self._max_running or self._is_disk_full():
            return None
        trial = next(self._ids, Searcher.FINISHED)
        if trial is None or trial == Searcher.FINISHED:
            return trial
        return {"trial": trial, "alone": (self._store.index.trial_folder(trial) / NEEDS_WHOLE_GPU).exists()}

    def _is_disk_full(self) -> bool:
        folder = self._store.folder
        needed, free = self._store.sweep.fixed["resources.min_free_gb"], free_gigabytes(folder)
        paused = bool(free < needed)
        if paused != self._paused:
            self._paused = paused
            rule = f"the disk of {folder} has {free:.1f} GB left, of resources.min_free_gb {needed:g}"
            self._progress.say(f"{rule}: no trial starts until there is room" if paused else f"{rule}: going on")
        return paused

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: the callback records the outcome of a trial."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the run folder is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the run folder is the state."""

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Return True: the search space is the sweep's, not Tune's."""
        return True


class _EarlyStoppingScheduler(NoTuneState, FIFOScheduler):
    """Starts trials in the order of the queue and stops those that early stopping ends."""

    def __init__(self, store: TrialStore) -> None:
        super().__init__()
        self._store = store

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return Tune's decision on a trial after an epoch."""
        if result.get("done") or self._store.may_continue(_trial_id(trial), result):
            return str(FIFOScheduler.CONTINUE)
        return str(FIFOScheduler.STOP)


class _OutcomeCallback(NoTuneState, tune.Callback):
    """Records outcomes in the trial store, shows progress and ends the workers of stalled trials."""

    def __init__(
        self, store: TrialStore, progress: Progress, stopping: threading.Event, metrics: Metrics, report: LiveReport
    ) -> None:
        self._store, self._progress, self._stopping = store, progress, stopping
        self._metrics, self._report = metrics, report
        self._minutes = store.sweep.fixed["resources.stall_minutes"]
        self._stalls = StallDetector(self._minutes)
        self._stall_counts: dict[str, int] = {}
        self._failed_resets = FailedResets()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Show a trial that begins."""
        record = self._store.index.get(_trial_id(trial))
        setting = label(record.point, kind=record.kind)
        self._progress.started(record.trial, setting)
        self._metrics.started(record.trial, setting, epochs=epochs_of(record.settings))

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """Show the figures of an epoch; stop the sweep if the trial's disk is full."""
        if reason := result.get("no_room"):
            self._stopping.set()
            self._progress.say(f"trial {_trial_id(trial)} has nowhere to write to: {reason}")
        if note := result.get("note"):
            self._progress.say(f"trial {_trial_id(trial)}: {note.splitlines()[0]}")
        self._progress.epoch(_trial_id(trial), result)
        self._metrics.epoch(_trial_id(trial), result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record a trial that ended by itself or was stopped."""
        name = _trial_id(trial)
        if self._store.queue.requeue_alone(name):
            self._progress.say(f"trial {name} did not fit beside others, and will run alone on a whole GPU")
        elif self._store.index.reload(name).status != "running" or not self._stopping.is_set():
            self._settle(trial, status="pruned")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record a trial that has lost its worker too often."""
        self._failed_resets.mark_reported(trial)
        folder = self._store.index.trial_folder(_trial_id(trial))
        write_atomically(folder / "traceback.txt", f"{trial.get_error()}\n")
        self._settle(trial, status="failed", error=f"its worker was lost {MAX_WORKER_LOSSES + 1} times")

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Queue trials of failed resets again and end stalled workers, which Tune restarts from their checkpoint."""
        self._store.clock.save_if_due()
        for trial in self._failed_resets.find(trials):
            self._run_again(_trial_id(trial))
        running = [_trial_id(trial) for trial in trials if trial.status == "RUNNING"]
        for name in self._stalls.find_stalled({name: self._store.index.trial_folder(name) for name in running}):
            self._end_stalled(name)

    def _run_again(self, trial: str) -> None:
        if self._store.index.reload(trial).status == "running":
            self._store.queue.run_again(trial)
            self._progress.say(f"trial {trial} lost its worker before it began, and will get another")

    def _end_stalled(self, trial: str) -> None:
        folder = self._store.index.trial_folder(trial)
        place = read_heartbeat(folder)
        if place is None:
            return
        self._stall_counts[trial] = self._stall_counts.get(trial, 0) + 1
        silence = f"no sign of life for {self._minutes:g} minutes"
        self._progress.say(f"trial {trial} is ended: {silence}")
        if self._stall_counts[trial] == _MAX_STALLS:
            write_atomically(folder / "traceback.txt", f"{silence}, {_MAX_STALLS} times; process {place['pid']}\n")
            self._store.outcomes.fail(trial, f"{silence}, {_MAX_STALLS} times")
        end_worker(**place)

    def _settle(self, trial: Any, *, status: str, error: str = "") -> None:
        record = self._store.outcomes.settle(_trial_id(trial), status=status, error=error)
        score, reason = record.result.get(self._store.objective), record.result.get("error", "")
        self._progress.ended(record.trial, status=record.status, score=score, error=reason)
        self._metrics.ended(record.trial, status=record.status, score=score)
        self._report.changed()


class _EventStopper(NoTuneState, tune.Stopper):
    """Ends all trials when the event is set."""

    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return False: trials end by themselves."""
        return False

    def stop_all(self) -> bool:
        """Return whether the sweep is to stop."""
        return self._event.is_set()
