"""Lost workers of trials: a worker that dies with its node does not count as one of a trial's tries.

A node that was killed looks alive to Ray for some seconds. A trial that is started again meanwhile is placed on that
node and lost at once, so it waits until a task on the node has either run or failed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from whale_ray.sweep.run_folder.heartbeat import read_heartbeat

_NODE = re.compile(r"(?:node_id='|Node Id: )([0-9a-f]+)")


class NodeProbe(Protocol):
    """A task on a node of the cluster."""

    def is_node_alive(self) -> bool | None:
        """Return whether the node runs tasks; None if that is not known yet."""


class WorkerLosses:
    """Lost workers of the running sweep.

    Args:
        limit: Number of losses on living nodes after which a trial has failed.
        probe: Starts a task on a node, given its ID.
    """

    def __init__(self, *, limit: int, probe: Callable[[str], NodeProbe]) -> None:
        self._limit, self._probe = limit, probe
        self._counts: Counter[str] = Counter()
        self._waiting: dict[str, NodeProbe | None] = {}

    def record(self, trial: str, *, node: str | None) -> None:
        """Record that a trial has lost a worker.

        Args:
            trial: ID of the trial.
            node: ID of the worker's node; None if it is not known, which counts as a living node.
        """
        self._waiting[trial] = None if node is None else self._probe(node)

    def settle(self) -> Iterator[tuple[str, bool]]:
        """Yield each trial whose node's state is known by now, and whether the trial may be tried again."""
        for trial, probe in list(self._waiting.items()):
            is_alive = True if probe is None else probe.is_node_alive()
            if is_alive is None:
                continue
            del self._waiting[trial]
            self._counts[trial] += is_alive
            yield trial, self._counts[trial] < self._limit


def node_of_loss(folder: Path, error: str) -> str | None:
    """Return the ID of the node on which a trial has lost a worker; None if it is not known.

    Args:
        folder: The trial's folder; its heartbeat names the node.
        error: Text of the error; Ray Train names the nodes of lost workers, and Ray those that have died.
    """
    found = _NODE.search(error)
    heartbeat: dict[str, Any] = read_heartbeat(folder) or {}
    return found[1] if found else heartbeat.get("node") or None
