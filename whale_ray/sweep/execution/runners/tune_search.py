"""Searcher and scheduler of Ray Tune: the trials of the queue in order, and those that early stopping ends."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from whale_ray.sweep.config.loss_schema import completed
from whale_ray.sweep.execution.console import Progress
from whale_ray.sweep.execution.runners.ray_workarounds import NoTuneState, keep_idle_worker
from whale_ray.sweep.execution.runners.trial_slots import TrialSlots
from whale_ray.sweep.execution.trial_store import TrialStore
from whale_ray.sweep.planning.search_space import next_in_order
from whale_ray.sweep.planning.trial_points import Caches, caches_of
from whale_ray.sweep.run_folder.disk_space import DiskSpaceGate
from whale_ray.sweep.run_folder.records import NEEDS_WHOLE_GPU
from whale_ray.sweep.run_store.trial_files import HEARTBEAT

_MOST_PLACES = 2  # on a node; with more a simulation gains little or nothing: benchmarks/placement_simulation.py
LEFT_OUT = "left_out"
"""Key of a trial's config: IDs of the nodes that lack the photographs."""


def trial_id(trial: Any) -> str:
    """Return the ID of a `ray.tune.experiment.Trial` in the run folder."""
    return str(trial.config["trial"])


class TrialPlacement:
    """Chooses the next trial by the caches of the node that will run it, so that fewer nodes decode a geometry.

    Tune gives the next trial to the worker that has just ended one, so the node is known before the trial is chosen.
    Only the order of a grid or a screen changes: no trial waits for a node, and no worker is started for it.

    Args:
        slots: Places for trials on the cluster.
    """

    def __init__(self, slots: TrialSlots) -> None:
        self._slots = slots
        self._kept: defaultdict[str, set[Hashable]] = defaultdict(set)  # by node
        self._needed: dict[str, Caches] = {}  # by trial
        self._nodes: dict[str, str] = {}  # of running trials, as expected until they report
        self._starting: set[str] = set()  # trials of which not even the expected node is known
        self._free: deque[str] = deque()  # nodes whose worker waits for a trial, in the order in which Tune takes them

    def choose(self, waiting: Mapping[Caches, int]) -> Caches:
        """Return the caches that the next trial shall need: the node's, else those with the most trials per node.

        On a single node, and on nodes with many places, the trials keep their order.

        Args:
            waiting: Number of trials for each choice.
        """
        places = [count for count in self._slots.by_node() if count]
        if len(places) < 2 or max(places) > _MOST_PLACES:
            return next_in_order(waiting)
        kept = self._kept[self._free[0]] if self._free else set()
        starting = Counter(self._needed[trial] for trial in self._starting)

        def rank(caches: Caches) -> tuple[int, float]:
            return len(set(caches) - kept), -waiting[caches] / (self._nodes_for(caches) + starting[caches])

        return min(waiting, key=rank)

    def hand_out(self, trial: str, caches: Caches) -> None:
        """Record that a trial was handed out, to the worker that waits longest or to a new one.

        Args:
            trial: ID of the trial.
            caches: What it needs.
        """
        self._needed[trial] = caches
        if self._free:
            node = self._nodes[trial] = self._free.popleft()
            self._kept[node].update(caches)
        else:
            self._starting.add(trial)

    def record_node(self, trial: str, node: str) -> None:
        """Record where a trial runs.

        Args:
            trial: ID of the trial.
            node: ID of the Ray node.
        """
        self._starting.discard(trial)
        self._nodes[trial] = node
        self._kept[node].update(self._needed.get(trial, ()))

    def end(self, trial: str, *, is_lost: bool = False) -> None:
        """Record that a trial runs no longer.

        Args:
            trial: ID of the trial.
            is_lost: Its worker was lost; otherwise the worker waits for another trial.
        """
        self._needed.pop(trial, None)
        self._starting.discard(trial)
        node = self._nodes.pop(trial, None)
        if node is not None and not is_lost and node not in self._slots.left_out:
            self._free.append(node)

    def _nodes_for(self, caches: Caches) -> int:
        """Return the number of nodes that run trials and have these caches, and the one that is to get them."""
        return 1 + sum(self._kept[node].issuperset(caches) for node in set(self._nodes.values()))


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
        placement: TrialPlacement,
    ) -> None:
        super().__init__()
        self._store, self._stopping = store, stopping
        self._gate = DiskSpaceGate(store.folder, minimum=store.sweep.fixed["resources.min_free_gb"], say=progress.say)
        self._slots, self._settle, self._placement = slots, settle, placement
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
        self._placement.hand_out(trial, caches)
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
        is_epoch = not result.get("done") and HEARTBEAT not in result
        if not is_epoch or self._store.may_continue(trial_id(trial), result):
            return str(FIFOScheduler.CONTINUE)
        return str(FIFOScheduler.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Let the worker of a trial end with it if no other trial can follow, so that its node becomes idle.

        The process of a trial with several workers reserves no place on a node. It is kept: if it ends before Ray
        Train's controller has, the places of the workers stay reserved until Ray notices.
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
