"""Counts how many trials the cluster can run at once, and asks its autoscaler for more nodes."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from whale_ray.errors import InputError

_REFRESH_SECONDS, _DEMAND_SECONDS = 2.0, 5.0
_MAX_DEMAND = 16  # trials for which nodes are asked at once


def count_places(nodes: Iterable[Mapping[str, float]], share: Mapping[str, float], *, workers: int = 1) -> int:
    """Return how many trials fit on the nodes at once.

    Args:
        nodes: Resources of each node, by Ray's resource name.
        share: What one worker of a trial reserves; a worker is on one node.
        workers: Number of workers of a trial.
    """
    return sum(places_by_node(nodes, share)) // workers


def places_by_node(nodes: Iterable[Mapping[str, float]], share: Mapping[str, float]) -> list[int]:
    """Return how many workers fit on each node.

    Args:
        nodes: Resources of each node, by Ray's resource name.
        share: What one worker reserves.
    """
    wanted = {name: amount for name, amount in share.items() if amount > 0} or {"CPU": 1.0}
    return [min(int(node.get(name, 0.0) / amount + 1e-9) for name, amount in wanted.items()) for node in nodes]


class TrialSlots:
    """Places for trials on the cluster that Ray is connected to.

    Args:
        share: What one worker of a trial reserves, more than 0 of each of Ray's resources (CPU, GPU).
        workers: Number of workers of a trial.
        left_out: Faults of nodes that get no trial, by their ID.
        can_grow: Nodes may join the cluster. Whether an autoscaler adds them is not known: Ray 2.60 has a record of its
            node types, but its autoscalers do not write it.

    Attributes:
        left_out: Faults of the nodes that get no further trial, by their ID.
    """

    def __init__(
        self,
        share: Mapping[str, float],
        *,
        workers: int,
        left_out: Mapping[str, str] = MappingProxyType({}),
        can_grow: bool = False,
    ) -> None:
        self._share, self._can_grow = dict(share), can_grow
        self._workers = workers
        self._places: list[int] = []
        self._counted_at = float("-inf")
        self.left_out = dict(left_out)
        self._demand: list[Any] = []
        self._asked_at = float("-inf")

    def count(self) -> int:
        """Return how many trials fit at once, counted again every two seconds."""
        return sum(self.by_node()) // self._workers

    def by_node(self) -> list[int]:
        """Return how many workers fit on each node, counted again every two seconds."""
        if time.monotonic() - self._counted_at >= _REFRESH_SECONDS:
            self._places = places_by_node(_alive_nodes(self.left_out), self._share)
            self._counted_at = time.monotonic()
        return self._places

    def other_nodes(self) -> dict[str, str]:
        """Return the host name by ID of each node beside the driver's that can run a worker and is not left out."""
        import ray

        known = {*self.left_out, ray.get_runtime_context().get_node_id()}
        return {node: host for node, host in nodes_with_places(self._share).items() if node not in known}

    def leave_out(self, node: str, fault: str) -> bool:
        """Give a node no further trial, and return whether one fits on the others.

        Args:
            node: ID of the Ray node.
            fault: Names the node and says why it can run no trial.
        """
        self.left_out.setdefault(node, fault)
        self._counted_at = float("-inf")
        return self.count() > 0

    def reservation(self, *, alone: bool) -> dict[str, float]:
        """Return what Tune reserves for the process of a trial.

        Args:
            alone: The trial did not fit on a share of a GPU and gets a whole one.
        """
        if self._workers > 1:
            return {"memory": 1}  # Ray Train reserves for the workers, and Tune refuses an empty reservation
        return self._share | ({"GPU": 1.0} if alone else {})

    def wait_for_one(self, *, minutes: float, say: Callable[[str], None], stopping: threading.Event) -> None:
        """Return when a trial fits, or when `stopping` is set.

        Args:
            minutes: Longest wait for nodes that can join.
            say: Prints a line for the user.
            stopping: Ends the wait.

        Raises:
            InputError: If no trial fits after the wait.
        """
        deadline = time.monotonic() + 60.0 * minutes
        if not self.count() and minutes:
            say(f"waiting up to {minutes:g} minutes for nodes: {self._lack()}")
            self._ask_for(1)
        while not self.count() and time.monotonic() < deadline and not stopping.wait(1.0):
            pass
        self.end_demand()
        if not self.count() and not stopping.is_set():
            if self.left_out:
                raise InputError(describe_left_out(self.left_out.values()))
            remedy = "Lower resources.cpus, .gpus or .workers, or name a larger cluster with --address"
            wait = ". If nodes can still join, set resources.wait_minutes" if not minutes else ""
            raise InputError(f"a trial's resources must fit on the cluster, but {self._lack()}. {remedy}{wait}")

    def update_demand(self, waiting: Callable[[], int], *, running: int) -> None:
        """Show the autoscaler, every few seconds, the trials that wait for a place; others need no demand.

        A demand is a placement group that ends with the driver, also if that is killed. All are removed while a place
        is free, so that a trial takes it.

        Args:
            waiting: Returns the number of trials beyond those that run.
            running: Number of trials that were handed out and have not ended.
        """
        if self.count() > running:
            self.end_demand()
        elif self._can_grow and time.monotonic() - self._asked_at >= _DEMAND_SECONDS:
            self._ask_for(waiting())
            self._asked_at = time.monotonic()

    def end_demand(self) -> None:
        """Withdraw the demand for more nodes."""
        if self._demand:
            self._ask_for(0)

    def _ask_for(self, trials: int) -> None:
        from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

        if any(placement_group_table(group)["state"] == "CREATED" for group in self._demand):
            trials = 0  # a trial that was handed out takes the place before there is demand again
        kept = self._demand[: min(trials, _MAX_DEMAND)]
        for group in self._demand[len(kept) :]:
            remove_placement_group(group)
        bundles = [self._share] * self._workers
        self._demand = kept + [placement_group(bundles) for _ in range(min(trials, _MAX_DEMAND) - len(kept))]

    def _lack(self) -> str:
        nodes = _alive_nodes(self.left_out)
        largest = {name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in self._share}
        short = [name for name, amount in self._share.items() if largest[name] < amount] or list(self._share)
        parts = [
            f"{self._share[name]:g} {name} where the cluster has {sum(node.get(name, 0.0) for node in nodes):g}, at "
            f"most {largest[name]:g} on a node"
            for name in short
        ]
        wants = f"each of {self._workers} workers wants" if self._workers > 1 else "it wants"
        return f"{wants} {' and '.join(parts)}"


def nodes_with_places(share: Mapping[str, float]) -> dict[str, str]:
    """Return the host name of each living node on which one worker fits, by the node's ID.

    Args:
        share: What one worker of a trial reserves.
    """
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"] and count_places([node["Resources"]], share)]
    return {node["NodeID"]: node["NodeManagerHostname"] for node in nodes}


def describe_left_out(faults: Iterable[str]) -> str:
    """Return an error that names each node that cannot run trials; nodes with the same fault share a line.

    Args:
        faults: Faults that begin with `node HOST`.
    """
    hosts: dict[str, list[str]] = defaultdict(list)
    for fault in faults:
        _, host, lack = fault.split(" ", 2)
        hosts[lack].append(host)
    lines = [_name_hosts(names, lack) for lack, names in hosts.items()]
    return "\n  ".join(["a node of the cluster must be able to run the trials, but none is left:", *lines])


def _name_hosts(names: list[str], lack: str) -> str:
    different = list(dict.fromkeys(names))
    return f"node{'s' if len(different) > 1 else ''} {', '.join(different)} {lack}"


def _alive_nodes(left_out: Container[str]) -> list[Mapping[str, float]]:
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in left_out]
