"""Order of the trials of a grid or screen by what the nodes have in their caches."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Hashable, Mapping

from whale_ray.sweep.execution.cluster.trial_slots import TrialSlots
from whale_ray.sweep.planning.search_space import next_in_order
from whale_ray.sweep.planning.trial_points import Caches

# With more places on a node, benchmarks/cache_aware_order_simulation.py gains little or nothing.
_MOST_PLACES = 2


class CacheAwareOrder:
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
