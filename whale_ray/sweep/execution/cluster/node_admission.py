"""Checks code and photographs of each node by a light task, before the sweep begins and when a node joins."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from whale_ray.data.caches.cache_folder import pixel_cache
from whale_ray.device import worker_resources
from whale_ray.errors import InputError
from whale_ray.inference.bundle_transfer.object_store import is_url
from whale_ray.sweep.config.sweep_spec import Sweep
from whale_ray.sweep.execution.cluster.ray_cluster import connected, start_on, task_failure
from whale_ray.sweep.execution.cluster.trial_slots import describe_left_out, nodes_with_places
from whale_ray.sweep.planning.node_checks import SAME_CODE, NodeNeeds, code_version

_LONGEST_SECONDS = 30.0  # while no node is known that can run a trial
_SECONDS = 5.0  # for the other nodes
_LOOK_SECONDS = 2.0


class NodeAdmission:
    """Checks each node once, by a task that imports neither PyTorch nor pandas and reserves nothing.

    A node that does not answer is not judged: the worker of its first trial makes the same checks.

    Args:
        needs: What a node must have.

    Attributes:
        fit: IDs of the nodes that have it.
    """

    def __init__(self, needs: NodeNeeds) -> None:
        self._needs = needs
        self._hosts: dict[str, str] = {}
        self._tasks: dict[Any, str] = {}
        self._looked_at = float("-inf")
        self.fit: set[str] = set()

    def start(self, nodes: Mapping[str, str]) -> None:
        """Start the check of nodes that were not seen before.

        Args:
            nodes: Host name by ID of the node.
        """
        for node, host in nodes.items():
            if node not in self._hosts:
                self._tasks[start_on(node, NodeNeeds.fault, self._needs)] = node
                self._hosts[node] = host

    def look(self, nodes: Callable[[], Mapping[str, str]]) -> None:
        """Start the check of nodes that have joined, looked for every two seconds.

        Args:
            nodes: Returns the host name of each node by its ID.
        """
        if time.monotonic() - self._looked_at >= _LOOK_SECONDS:
            self.start(nodes())
            self._looked_at = time.monotonic()

    def settle(self, *, seconds: float = 0.0) -> Iterator[tuple[str, str]]:
        """Yield the ID and the fault of each node that cannot run a trial, known since the last call.

        Args:
            seconds: Longest wait for the next answer.
        """
        import ray

        if not self._tasks:
            return
        for task in ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=seconds)[0]:
            node = self._tasks.pop(task)
            fault = self._fault(task, node)
            if fault == "":
                self.fit.add(node)
            elif fault:
                yield node, fault

    def is_done(self) -> bool:
        """Return whether all nodes have answered."""
        return not self._tasks

    def _fault(self, task: Any, node: str) -> str | None:
        """Return the fault that a task has found; None if it could not run."""
        import ray

        try:
            return str(ray.get(task))
        except ray.exceptions.RayTaskError as error:
            return f"node {self._hosts[node]} must run the driver's code, but: {task_failure(error)}. {SAME_CODE}"
        except ray.exceptions.RayError:
            return None


def check_nodes(sweep: Sweep, address: str, *, say: Callable[[str], None]) -> dict[str, str]:
    """Return the faults of the nodes of a running cluster that cannot run trials of a sweep, by ID of the node.

    Code and folder of the photographs are compared; `needs_of` knows more when the driver has read them.

    Args:
        sweep: The sweep.
        address: Address of the cluster.
        say: Prints a line for each of these nodes.

    Raises:
        InputError: If no node can run trials, and the sweep waits for none.
    """
    fixed = sweep.fixed
    share = worker_resources(cpus=fixed["resources.cpus"], gpus=fixed["resources.gpus"])
    with connected(address, say=lambda line: None), _first_needs(fixed["data.root"]) as needs:
        admission = NodeAdmission(needs)
        admission.start(nodes := nodes_with_places(share))
        found = dict(_answers(admission))
    if found.keys() == nodes.keys() and found and not fixed["resources.wait_minutes"]:
        raise InputError(describe_left_out(found.values()))
    for fault in found.values():
        say(f"{fault}. This node is left out")
    return found


def _answers(admission: NodeAdmission) -> Iterator[tuple[str, str]]:
    begun = time.monotonic()
    while not admission.is_done() and time.monotonic() - begun < (_SECONDS if admission.fit else _LONGEST_SECONDS):
        yield from admission.settle(seconds=0.1)


@contextmanager
def _first_needs(root: str) -> Iterator[NodeNeeds]:
    """Yield what a node must have, as far as it is known before the photographs are read.

    A draft in the folder of decoded images shows whether a node shares that folder: then it needs no photographs.
    """
    folder, cache = Path(root).absolute(), pixel_cache()
    if is_url(root) or not folder.is_dir():
        yield NodeNeeds(code_version(), None, (), cache, ())
        return
    try:
        cache.mkdir(parents=True, exist_ok=True)
        draft = tempfile.NamedTemporaryFile(dir=cache, prefix=".driver.")  # noqa: SIM115
    except OSError:
        yield NodeNeeds(code_version(), None, (), cache, ())
        return
    with draft:
        yield NodeNeeds(code_version(), folder, (), cache, (Path(draft.name).name,))
