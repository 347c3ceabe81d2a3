"""Connects to a Ray cluster or starts one, checks its resources and ends single workers."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from whale_ray.device import IDLE_GPU, reserved_device, without_default_threads
from whale_ray.errors import InputError, first_line
from whale_ray.ray_address import check_driver_address, describe_mismatch
from whale_ray.ray_private import free_agent_port, is_token_auth_enabled
from whale_ray.ray_temp_folder import shorten_ray_folder
from whale_ray.sweep.execution.cluster.ray_workarounds import kept_sigterm_handler, set_ray_environment

_GPU_SECONDS = 20.0  # in which a process starts and imports torch
_GPU_TRIES = 3  # of a check whose process or node is lost


@contextlib.contextmanager
def connected(address: str | None, *, say: Callable[[str], None]) -> Iterator[bool]:
    """Connect to the cluster at `address` for the length of the block; None starts a local one that ends with it.

    Yields whether nodes may join: not to a local one, nor to that of a process which is connected already.

    Args:
        address: HOST:PORT or `auto`. RAY_ADDRESS counts if it is None or `auto`.
        say: Prints a line for the user.

    Raises:
        InputError: If no cluster answers at `address`, or it has another version of Ray or Python.
    """
    set_ray_environment()
    import ray

    if ray.is_initialized():
        yield False
        return
    if folder := shorten_ray_folder():
        say(f"Ray's files are in {folder}: the temporary folder is too long for its sockets")
    target = check_driver_address(address)
    try:
        with kept_sigterm_handler(), without_default_threads(), free_agent_port():
            context = ray.init(address=target, logging_level=logging.ERROR, log_to_driver=False)
    except ConnectionError as error:
        raise InputError(
            f"a Ray cluster must take this sweep at {target}, but: {error}. See `ray status --address {target}`"
        ) from error
    except RuntimeError as error:
        raise describe_mismatch(error, target) from error
    try:
        if context.dashboard_url:
            say(f"Ray dashboard: http://{context.dashboard_url}{_sign_in_hint()}")
        yield target != "local"
    finally:
        ray.shutdown()


def _sign_in_hint() -> str:
    """Return how to sign in to the dashboard if Ray uses token authentication; the token itself is never printed."""
    if not is_token_auth_enabled():
        return ""
    place = os.environ.get("RAY_AUTH_TOKEN_PATH", str(Path("~/.ray/auth_token")))
    return f" (to sign in, paste the token that `cat {place}` shows)"


def end_worker(*, pid: int, node: str) -> None:
    """Kill a process on a node of the cluster (SIGKILL); a process that has ended already is no error.

    Args:
        pid: Process ID on that node.
        node: Ray's node ID.
    """
    import ray

    with contextlib.suppress(ray.exceptions.RayError):
        ray.get(start_on(node, _kill, pid), timeout=60)


def start_on(node: str, function: Callable[..., object], *arguments: Any) -> Any:
    """Start a task on one node, without resources and without another try; return its reference.

    Args:
        node: Ray's node ID.
        function: The task.
        arguments: Its arguments.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    task = ray.remote(num_cpus=0, max_retries=0)(function)
    return task.options(scheduling_strategy=there).remote(*arguments)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def select_other_nodes(nodes: Iterable[str]) -> dict[str, str]:
    """Return the label selector of Ray for all nodes but some.

    Args:
        nodes: IDs of the nodes that get nothing.
    """
    excluded = ",".join(nodes)
    return {"ray.io/node-id": f"!in({excluded})"} if excluded else {}


def task_failure(error: Exception) -> str:
    """Return the last line of an error of a task, which names the exception."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else first_line(error)


def check_gpu(gpus: float, *, left_out: Iterable[str], say: Callable[[str], None], stopping: threading.Event) -> None:
    """Check on a node of the cluster that torch can use the GPU share that Ray reserves.

    If other programs hold the GPUs, wait until one is free or `stopping` is set. A check that is lost with its process
    or node is repeated.

    Args:
        gpus: GPU share of one trial; 0 prints a hint if the cluster has a GPU.
        left_out: IDs of nodes that get no trial, and no check.
        say: Prints a line for the user.
        stopping: Ends the wait.

    Raises:
        InputError: If torch cannot use a GPU there, or the check fails.
    """
    import ray

    if not gpus:
        if ray.cluster_resources().get("GPU"):
            say(IDLE_GPU)
        return
    options = {"num_cpus": 0, "num_gpus": gpus, "max_retries": 0, "label_selector": select_other_nodes(left_out)}
    task = ray.remote(**options)(_fault_of_gpu)
    fault: str | None = None
    for _ in range(_GPU_TRIES):
        check = task.remote(gpus)
        if not _is_done(check, f"{gpus:g} GPU", say=say, stopping=stopping):
            return
        try:
            fault = ray.get(check)
            break
        except ray.exceptions.RayTaskError as error:
            fault = f"{node_of_failure(error)} must run the check of its GPU, but: {task_failure(error)}"
            break
        except ray.exceptions.RayError as error:
            fault = f"the check of a GPU was lost {_GPU_TRIES} times, at last: {first_line(error)}"
    if fault:
        raise InputError(f"resources.gpus: {fault}")


def _is_done(check: Any, share: str, *, say: Callable[[str], None], stopping: threading.Event) -> bool:
    """Wait until a task has ended; False if it was cancelled since `stopping` was set."""
    import ray

    began, is_announced = time.monotonic(), False
    while not ray.wait([check], timeout=1.0)[0]:
        if stopping.is_set():
            ray.cancel(check)
            return False
        if not is_announced and time.monotonic() - began > _GPU_SECONDS:
            say(f"waiting for {share} of the cluster, which others hold")
            is_announced = True
    return True


def node_of_failure(error: Exception) -> str:
    """Return the node on which a task has failed, as `node HOST`.

    Args:
        error: A RayTaskError. `ray.get` raises it with the attributes of its cause; only its text has the IP address.
    """
    import ray

    found = re.search(r"\bip=([\w.:]+)", str(error))
    if found is None:
        return "a node"
    hosts = {node["NodeManagerAddress"]: node["NodeManagerHostname"] for node in ray.nodes()}
    return f"node {hosts.get(found[1], found[1])}"


def _fault_of_gpu(gpus: float) -> str:
    try:
        reserved_device(gpus)
    except InputError as error:
        return str(error)
    return ""


class RayNodeProbe:
    """A task without work on one node of the cluster, which shows whether the node is alive.

    Args:
        node: Ray's node ID.
    """

    def __init__(self, node: str) -> None:
        self._task = start_on(node, _do_nothing)

    def is_node_alive(self) -> bool | None:
        """Return whether the task has run; None while it waits."""
        import ray

        if not ray.wait([self._task], timeout=0)[0]:
            return None
        try:
            ray.get(self._task)
        except ray.exceptions.RayError:
            return False
        return True


def _do_nothing() -> None:
    """Run on the node that is probed."""
