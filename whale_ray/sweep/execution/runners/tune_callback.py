"""Callback of Ray Tune: passes its events on, and looks after nodes, lost workers and stalled trials between them."""

from __future__ import annotations

import threading
from typing import Any

from ray import tune

from whale_ray.atomic_files import write_atomically
from whale_ray.sweep.execution.cluster.cache_aware_order import CacheAwareOrder
from whale_ray.sweep.execution.cluster.lost_workers import WorkerLosses, node_of_loss
from whale_ray.sweep.execution.cluster.node_admission import NodeAdmission
from whale_ray.sweep.execution.cluster.ray_cluster import RayNodeProbe, end_worker
from whale_ray.sweep.execution.cluster.ray_workarounds import FailedResets, NoTuneState, forget_metrics
from whale_ray.sweep.execution.cluster.trial_slots import TrialSlots
from whale_ray.sweep.execution.cluster.worker_groups import WorkerGroups
from whale_ray.sweep.execution.console import Progress
from whale_ray.sweep.execution.runners.trial_event_handler import TrialEventHandler
from whale_ray.sweep.execution.runners.tune_search import trial_id
from whale_ray.sweep.execution.trial_store import TrialStore
from whale_ray.sweep.run_folder.heartbeat import StallDetector, read_heartbeat
from whale_ray.sweep.trial_reports import HEARTBEAT, NODE, UNFIT_NODE, WORKERS, ReportKind, kind_of

MAX_WORKER_LOSSES = 3
_MAX_STALLS = 2


class SweepCallback(NoTuneState, tune.Callback):
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
        admission: NodeAdmission,
        order: CacheAwareOrder,
        groups: WorkerGroups,
    ) -> None:
        self._store, self._progress, self._events = store, progress, events
        self._stopping, self._slots, self._admission, self._order = stopping, slots, admission, order
        self.has_no_node, self._groups = False, groups
        self._losses = WorkerLosses(limit=MAX_WORKER_LOSSES, probe=RayNodeProbe)
        self._errors: dict[str, str] = {}
        self._minutes = store.sweep.fixed["resources.stall_minutes"]
        self._stalls = StallDetector(self._minutes)
        self._stall_counts: dict[str, int] = {}
        self._failed_resets = FailedResets()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Show a trial that begins."""
        self._store.queue.mark_started(trial_id(trial))
        self._groups.start(trial_id(trial))
        self._events.started(trial_id(trial))

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """Show or record what a worker reports."""
        name = trial_id(trial)
        self._order.record_node(name, result[NODE])
        match kind_of(result):
            case ReportKind.HEARTBEAT:
                self._events.heartbeat(name, result[HEARTBEAT])
            case ReportKind.WORKERS:
                self._groups.record(name, result[WORKERS])
            case ReportKind.UNFIT_NODE:
                self._events.unplaced(name)
                self._leave_out(result[UNFIT_NODE], result["note"])
            case ReportKind.EPOCH | ReportKind.END:
                self._events.epoch(name, result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record a trial that ended by itself or was stopped."""
        self._leave_node(trial_id(trial))
        forget_metrics(trial)
        self._events.ended(trial_id(trial))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record a trial that has lost its worker."""
        self._failed_resets.mark_reported(trial)
        name = trial_id(trial)
        self._leave_node(name, is_lost=True)
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
        """Queue or fail lost trials, record late ones, and show the autoscaler how many trials wait."""
        queue, stops = self._store.queue, self._stopping.is_set()
        self._slots.update_demand(lambda: 0 if stops else queue.count_waiting(), running=len(queue.running))
        self._groups.settle()
        self._admission.look(self._slots.other_nodes)
        for node, fault in self._admission.settle():
            self._leave_out(node, fault)
        for name, may_retry in self._losses.settle():
            error = f"its worker was lost {MAX_WORKER_LOSSES} times"
            self._events.lost(name, may_retry=may_retry, error=error, details=self._errors[name])
        self._events.settle()

    def _leave_node(self, trial: str, *, is_lost: bool = False) -> None:
        """Give back the place of a trial whose worker waits for another trial, or is lost."""
        self._order.end(trial, is_lost=is_lost)
        self._groups.end(trial)

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

    def _run_again(self, trial: str) -> None:
        self._leave_node(trial, is_lost=True)
        note = f"trial {trial} lost its worker before it started, and gets another one"
        self._events.lost(trial, may_retry=True, note=note)

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
