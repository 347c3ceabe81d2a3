"""Searcher and scheduler of Ray Tune: the trials of the queue in order, and those that early stopping ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from whale_ray.sweep.config.loss_schema import completed
from whale_ray.sweep.execution.cluster.cache_aware_order import CacheAwareOrder
from whale_ray.sweep.execution.cluster.ray_workarounds import NoTuneState, keep_idle_worker
from whale_ray.sweep.execution.cluster.trial_slots import TrialSlots
from whale_ray.sweep.execution.console import Progress
from whale_ray.sweep.execution.trial_store import TrialStore
from whale_ray.sweep.planning.trial_points import caches_of
from whale_ray.sweep.run_folder.disk_space import DiskSpaceGate
from whale_ray.sweep.run_folder.records import NEEDS_WHOLE_GPU
from whale_ray.sweep.trial_reports import ReportKind, kind_of

LEFT_OUT = "left_out"
"""Key of a trial's config: IDs of the nodes that get no trial, for any fault."""


def trial_id(trial: Any) -> str:
    """Return the ID of a `ray.tune.experiment.Trial` in the run folder."""
    return str(trial.config["trial"])


class QueueSearcher(NoTuneState, Searcher):
    """Suggests the next trial of the queue while the cluster has a place for it and the disk is not full.

    The queue counts the running trials: Tune's `max_concurrent_trials` keeps counting a trial whose worker could not
    be reset (see `FailedResets`).
    """

    def __init__(
        self,
        store: TrialStore,
        progress: Progress,
        stopping: threading.Event,
        slots: TrialSlots,
        settle: Callable[[], None],
        order: CacheAwareOrder,
    ) -> None:
        super().__init__()
        self._store, self._stopping = store, stopping
        self._gate = DiskSpaceGate(store.folder, minimum=store.sweep.fixed["resources.min_free_gb"], say=progress.say)
        self._slots, self._settle, self._order = slots, settle, order
        self._ids: Iterator[str | None] = store.queue.trials()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the config of the next trial, None if it has to wait, or `Searcher.FINISHED`."""
        self._settle()  # while no trial runs, Tune calls nothing else
        if self._stopping.is_set():
            return str(Searcher.FINISHED)
        queue = self._store.queue
        if len(queue.running) >= self._slots.count() or queue.awaits_whole_gpu or self._gate.is_full():
            return None
        trial = next(self._ids, Searcher.FINISHED)
        if trial is None or trial == Searcher.FINISHED:
            return trial
        alone = (self._store.index.trial_folder(trial) / NEEDS_WHOLE_GPU).exists()
        caches = caches_of(completed(self._store.index.get(trial).settings))
        self._order.hand_out(trial, caches)
        return {"trial": trial, "alone": alone, "geometry": caches[0], LEFT_OUT: sorted(self._slots.left_out)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: the callback records the outcome of a trial."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the run folder is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the run folder is the state."""

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Return True: the search space is the sweep's, not Tune's."""
        return True


class EarlyStoppingScheduler(NoTuneState, FIFOScheduler):
    """Starts trials in the order of the queue and stops those that early stopping ends."""

    def __init__(self, store: TrialStore) -> None:
        super().__init__()
        self._store = store

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return Tune's decision on a trial after an epoch."""
        if kind_of(result) is not ReportKind.EPOCH or self._store.may_continue(trial_id(trial), result):
            return str(FIFOScheduler.CONTINUE)
        return str(FIFOScheduler.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Let the worker of a trial end with it if no other trial can follow, so that its node becomes idle.

        The process of a trial with several workers reserves no place on a node. It is kept, so that Ray Train's
        controller ends with the workers and not before them.
        """
        has_place = self._store.sweep.fixed["resources.workers"] == 1
        keep_idle_worker(tune_controller, keep=not has_place or self._store.queue.may_go_on())

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """Return None: Tune starts the waiting trials in their order by itself.

        FIFOScheduler chooses the first waiting trial, also if its worker is starting. If another worker has just become
        free, Tune gives it to this trial and drops the worker that starts, so that trials shorter than a start all run
        on one node.
        """
        return
