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

from whale_ray.sweep.execution.cluster.cache_aware_order import CacheAwareOrder
from whale_ray.sweep.execution.cluster.node_admission import NodeAdmission
from whale_ray.sweep.execution.cluster.ray_cluster import check_gpu, select_other_nodes
from whale_ray.sweep.execution.cluster.ray_workarounds import NoTuneState
from whale_ray.sweep.execution.cluster.trial_slots import TrialSlots, describe_left_out
from whale_ray.sweep.execution.cluster.worker_groups import WorkerGroups
from whale_ray.sweep.execution.console import Progress
from whale_ray.sweep.execution.runners.prometheus import metrics_of
from whale_ray.sweep.execution.runners.trial_event_handler import TrialEventHandler
from whale_ray.sweep.execution.runners.tune_callback import SweepCallback
from whale_ray.sweep.execution.runners.tune_search import LEFT_OUT, EarlyStoppingScheduler, QueueSearcher, trial_id
from whale_ray.sweep.execution.trial_store import TrialStore
from whale_ray.sweep.planning.node_checks import needs_of
from whale_ray.sweep.report.live import LiveReport
from whale_ray.sweep.trials.trial_run import SweepContext
from whale_ray.sweep.trials.worker import run_trial_on_ray


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
    check_gpu(fixed["resources.gpus"], left_out=slots.left_out, say=progress.say, stopping=stopping)
    with (
        tempfile.TemporaryDirectory(prefix="whale_ray_tune_") as scratch,
        LiveReport(store.folder, say=progress.say) as report,
    ):
        events = TrialEventHandler(store, progress, stopping, report, metrics_of(store))
        order = CacheAwareOrder(slots)
        if job.workers == 1:  # the nodes of several workers are Ray's choice
            store.queue.choose = order.choose
        admission = NodeAdmission(needs_of(job.dataset, job.data_root, job.code))
        groups = WorkerGroups(job.worker_resources, workers=job.workers)
        callback = SweepCallback(store, progress, events, stopping, slots, admission, order, groups)
        tune.Tuner(
            _trainable(store.sweep.name, job, slots),
            tune_config=tune.TuneConfig(
                search_alg=QueueSearcher(store, progress, stopping, slots, callback.settle, order),
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
    groups.settle(at_once=True)
    slots.end_demand()
    return describe_left_out(slots.left_out.values()) if callback.has_no_node else ""


def _trainable(sweep: str, job: SweepContext, slots: TrialSlots) -> Any:
    trainable = tune.with_parameters(run_trial_on_ray, context=job)
    trainable.__name__ = f"{sweep}: one trial at a time"  # name of the actors in Ray's dashboard
    return tune.with_resources(trainable, lambda config: _reservation(slots, config))


def _reservation(slots: TrialSlots, config: Mapping[str, Any]) -> Any:
    """Return the resources of a trial for Tune, on any node but those of `left_out`.

    Tune calls this with a copy of `slots`, as they were at the start.
    """
    amounts = slots.reservation(alone=config["alone"])
    if not config[LEFT_OUT]:
        return amounts
    return tune.PlacementGroupFactory([amounts], bundle_label_selector=[select_other_nodes(config[LEFT_OUT])])


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
