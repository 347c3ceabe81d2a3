"""Runs trials with Ray Tune: a searcher, a scheduler, a callback and a stopper that use the trial store.

Tune starts workers, restarts lost ones and passes on their reports. Its own state on disk is never read; the run
folder is the state of a sweep.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Mapping
from typing import Any

from ray import tune

from whale_ray.atomic_files import write_atomically
from whale_ray.sweep.execution.console import Progress
from whale_ray.sweep.execution.runners import tune_search
from whale_ray.sweep.execution.runners.lost_workers import WorkerLosses, node_of_loss
from whale_ray.sweep.execution.runners.node_screening import NodeScreening
from whale_ray.sweep.execution.runners.prometheus import metrics_of
from whale_ray.sweep.execution.runners.ray_cluster import RayNodeProbe, check_gpu, end_worker
from whale_ray.sweep.execution.runners.ray_workarounds import FailedResets, NoTuneState
from whale_ray.sweep.execution.runners.trial_event_handler import TrialEventHandler
from whale_ray.sweep.execution.runners.trial_slots import TrialSlots, describe_left_out
from whale_ray.sweep.execution.runners.tune_search import LEFT_OUT, EarlyStoppingScheduler, QueueSearcher, trial_id
from whale_ray.sweep.execution.trial_store import TrialStore
from whale_ray.sweep.planning.node_checks import UNFIT_NODE, needs_of
from whale_ray.sweep.report.live import LiveReport
from whale_ray.sweep.run_folder.heartbeat import StallDetector, read_heartbeat
from whale_ray.sweep.run_store.trial_files import HEARTBEAT
from whale_ray.sweep.trials.trial_run import SweepContext
from whale_ray.sweep.trials.worker import NODE, run_trial_on_ray

MAX_WORKER_LOSSES = 3
_MAX_STALLS = 2


def run_trials(
    store: TrialStore,
    job: SweepContext,
    progress: Progress,
    stopping: threading.Event,
    *,
    left_out: Mapping[str, str],
    can_grow: bool = False,
) -> str:
    """Run all trials that are left, on the cluster that Ray is connected to.

    Args:
        store: The trials of the sweep.
        job: What all trials share; sent to the workers once.
        progress: Display of the sweep.
        stopping: When it is set, running trials end and keep their last checkpoint; set if no node is left.
        left_out: Faults of nodes that get no trial, by their ID.
        can_grow: Nodes may join the cluster.

    Returns:
        Why no node is left that can run the trials, naming each; empty if all trials have ended or `stopping` was set.

    Raises:
        InputError: If one trial does not fit on the cluster, or torch cannot use its GPU.
    """
    fixed = store.sweep.fixed
    slots = TrialSlots(job.worker_resources, workers=job.workers, left_out=left_out, can_grow=can_grow)
    slots.wait_for_one(minutes=fixed["resources.wait_minutes"], say=progress.say, stopping=stopping)
    if stopping.is_set():
        return ""
    check_gpu(fixed["resources.gpus"], say=progress.say, stopping=stopping)
    trainable = tune.with_parameters(run_trial_on_ray, context=job)
    trainable.__name__ = f"{store.sweep.name}: one trial at a time"  # name of the actors in Ray's dashboard
    with (
        tempfile.TemporaryDirectory(prefix="whale_ray_tune_") as scratch,
        LiveReport(store.folder, say=progress.say) as report,
    ):
        events = TrialEventHandler(store, progress, stopping, report, metrics_of(store))
        placement = tune_search.TrialPlacement(slots)
        if job.workers == 1:  # the nodes of several workers are Ray's choice
            store.queue.choose = placement.choose
        screening = NodeScreening(needs_of(job.dataset, job.data_root, job.code))
        callback = _EventCallback(store, progress, events, stopping, slots, screening, placement)
        tune.Tuner(
            tune.with_resources(trainable, lambda config: _reservation(slots, config)),
            tune_config=tune.TuneConfig(
                search_alg=QueueSearcher(store, progress, stopping, slots, callback.settle, placement),
                scheduler=EarlyStoppingScheduler(store),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=trial_id,
                trial_dirname_creator=trial_id,
            ),
            run_config=tune.RunConfig(
                name=store.sweep.name,
                storage_path=scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=0),  # WorkerLosses decides
                callbacks=[callback],
                stop=_EventStopper(stopping),
            ),
        ).fit()
    slots.end_demand()
    return describe_left_out(slots.left_out.values()) if callback.has_no_node else ""


def _reservation(slots: TrialSlots, config: Mapping[str, Any]) -> Any:
    """Return the resources of a trial for Tune, on any node but those of `left_out`.

    Tune calls this with a copy of `slots`, as they were at the start.
    """
    amounts = slots.reservation(alone=config["alone"])
    if not config[LEFT_OUT]:
        return amounts
    others = {"ray.io/node-id": f"!in({','.join(config[LEFT_OUT])})"}
    return tune.PlacementGroupFactory([amounts], bundle_label_selector=[others])


class _EventCallback(NoTuneState, tune.Callback):
    """Passes Tune's events on, ends the workers of stalled trials and queues trials without a worker again.

    Attributes:
        has_no_node: The sweep ends because no node is left that can run its trials.
    """

    def __init__(
        self,
        store: TrialStore,
        progress: Progress,
        events: TrialEventHandler,
        stopping: threading.Event,
        slots: TrialSlots,
        screening: NodeScreening,
        placement: tune_search.TrialPlacement,
    ) -> None:
        self._store, self._progress, self._events = store, progress, events
        self._stopping, self._slots, self._screening, self._placement = stopping, slots, screening, placement
        self.has_no_node = False
        self._losses = WorkerLosses(limit=MAX_WORKER_LOSSES, probe=RayNodeProbe)
        self._errors: dict[str, str] = {}
        self._minutes = store.sweep.fixed["resources.stall_minutes"]
        self._stalls = StallDetector(self._minutes)
        self._stall_counts: dict[str, int] = {}
        self._failed_resets = FailedResets()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Show a trial that begins."""
        self._store.queue.mark_started(trial_id(trial))
        self._events.started(trial_id(trial))

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """Show the figures of an epoch, or record a heartbeat."""
        self._placement.record_node(trial_id(trial), result[NODE])
        if place := result.get(HEARTBEAT):
            self._events.heartbeat(trial_id(trial), place)
        elif node := result.get(UNFIT_NODE):
            self._events.unplaced(trial_id(trial))
            self._leave_out(node, result["note"])
        else:
            self._events.epoch(trial_id(trial), result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record a trial that ended by itself or was stopped."""
        self._placement.end(trial_id(trial))
        self._events.ended(trial_id(trial))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record a trial that has lost its worker."""
        self._failed_resets.mark_reported(trial)
        name = trial_id(trial)
        self._placement.end(name, is_lost=True)
        self._errors[name] = str(trial.get_error())
        self._losses.record(name, node=node_of_loss(self._store.index.trial_folder(name), self._errors[name]))

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Queue trials without a worker again, which resume from their checkpoint, and end stalled workers."""
        self._store.clock.save_if_due()
        self._events.repeat_metrics()
        self.settle()
        for trial in self._failed_resets.find(trials):
            self._run_again(trial_id(trial))
        running = [trial_id(trial) for trial in trials if trial.status == "RUNNING"]
        for name in self._stalls.find_stalled({name: self._store.index.trial_folder(name) for name in running}):
            self._end_stalled(name)

    def settle(self) -> None:
        """Queue or fail trials that have lost a worker, and show the autoscaler how many trials wait."""
        queue, stops = self._store.queue, self._stopping.is_set()
        self._slots.update_demand(lambda: 0 if stops else queue.count_waiting(), running=len(queue.running))
        self._screening.look(self._slots.other_nodes)
        for node, fault in self._screening.settle():
            self._leave_out(node, fault)
        for name, may_retry in self._losses.settle():
            self._end_loss(name, may_retry=may_retry)

    def _leave_out(self, node: str, fault: str) -> None:
        """Give a node no further trial; the sweep ends if no other node can run one."""
        if node in self._slots.left_out:
            return
        if self._slots.leave_out(node, fault):
            self._progress.say(f"{fault}. This node is left out, and its trials get others")
        elif not self._stopping.is_set():
            self._progress.say(f"{fault}. No other node can run the trials: the sweep ends")
            self.has_no_node = True
            self._stopping.set()

    def _end_loss(self, trial: str, *, may_retry: bool) -> None:
        self._events.fetch(trial)
        if self._stopping.is_set() or self._store.index.reload(trial).status != "running":
            self._events.ended(trial)
        elif may_retry:
            self._store.queue.run_again(trial)
        else:
            losses = f"its worker was lost {MAX_WORKER_LOSSES} times"
            self._events.failed(trial, error=losses, details=self._errors[trial])

    def _run_again(self, trial: str) -> None:
        self._placement.end(trial, is_lost=True)
        self._events.fetch(trial)
        if self._store.index.reload(trial).status == "running":
            self._store.queue.run_again(trial)
            self._progress.say(f"trial {trial} lost its worker before it started, and gets another one")

    def _end_stalled(self, trial: str) -> None:
        folder = self._store.index.trial_folder(trial)
        place = read_heartbeat(folder)
        if place is None:
            return
        self._stall_counts[trial] = self._stall_counts.get(trial, 0) + 1
        silence = f"no heartbeat for {self._minutes:g} minutes"
        self._progress.say(f"trial {trial} is stopped: {silence}")
        if self._stall_counts[trial] == _MAX_STALLS:
            write_atomically(folder / "traceback.txt", f"{silence}, {_MAX_STALLS} times; process {place['pid']}\n")
            self._store.outcomes.fail(trial, f"{silence}, {_MAX_STALLS} times")
        end_worker(**place)


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
