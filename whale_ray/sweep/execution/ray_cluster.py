"""The Ray cluster that a sweep runs on: found or started, described to the person, left as it was found.

Knows ray.init and its dashboard; knows no trial.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from whale_ray.device import reserved_device
from whale_ray.errors import InputError
from whale_ray.ray_private import is_token_auth_enabled
from whale_ray.sweep.planning.dry_run import IDLE_GPU

_GPU_SECONDS = 20.0  # in which a process starts and imports torch


@contextlib.contextmanager
def connected(address: str | None, *, say: Callable[[str], None]) -> Iterator[None]:
    """Holds a connection to the cluster at `address`, or to one of its own that ends with the block.

    Raises: InputError where there is no cluster at `address`.
    """
    # Read by Ray when it is imported or started: our own live view, signals and files take the place of Tune's,
    # and an epoch may be without a score, where it is not evaluated.
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
        "TUNE_FORCE_TRIAL_CLEANUP_S": "2",
        "RAY_AIR_NEW_OUTPUT": "0",
    }
    import ray

    if ray.is_initialized():
        yield
        return
    try:
        _knock(address)
        with _sigterm_kept():
            context = ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except ConnectionError as error:
        raise InputError(
            f"a Ray cluster must answer at {address}, but: {error}. Start one with `ray start --head`, "
            "or leave --address out"
        ) from error
    try:
        if context.dashboard_url:
            say(f"Ray dashboard: http://{context.dashboard_url}{_sign_in()}")
        yield
    finally:
        ray.shutdown()


def _knock(address: str | None) -> None:
    """Raises ConnectionError where nobody listens at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(str(error)) from error


@contextlib.contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Keeps who listens to SIGTERM: ray.init puts its own handler there, which ends the process at once."""
    listener = signal.getsignal(signal.SIGTERM)
    yield
    if callable(listener) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, listener)


def _sign_in() -> str:
    """How to sign in to the dashboard, where Ray's token mode is on; the token itself is never printed."""
    if not is_token_auth_enabled():
        return ""
    place = os.environ.get("RAY_AUTH_TOKEN_PATH", str(Path("~/.ray/auth_token")))
    return f" (to sign in, paste the token that `cat {place}` shows)"


def end_worker(*, pid: int, node: str) -> None:
    """Ends a process on a node of the cluster at once, whatever it is doing."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    ending = ray.remote(num_cpus=0, max_retries=0)(_kill).options(scheduling_strategy=there)
    with contextlib.suppress(ray.exceptions.RayError):
        ray.get(ending.remote(pid), timeout=60)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def slots(resources: Mapping[str, float]) -> int:
    """How many trials with these resources fit on the cluster at once.

    Raises: InputError where not even one fits.
    """
    import ray

    have = ray.cluster_resources()
    wanted = {name: amount for name, amount in resources.items() if amount > 0}
    if not wanted:
        return int(have.get("CPU", 1))
    short = {name: have.get(name, 0.0) for name, amount in wanted.items() if have.get(name, 0.0) < amount}
    if short:
        parts = [f"{wanted[name]:g} {name} where the cluster has {found:g}" for name, found in short.items()]
        raise InputError(
            f"a trial's resources must fit on the cluster, but it wants {' and '.join(parts)}. Lower "
            "resources.cpus or resources.gpus, or name a larger cluster with --address"
        )
    return min(int(have[name] / amount + 1e-9) for name, amount in wanted.items())


def check_gpu(gpus: float, *, say: Callable[[str], None], stopping: threading.Event) -> None:
    """Tries, on a node of the cluster, whether torch can use what Ray reserves; says where nothing is reserved.

    Where others hold the GPUs it says so, and waits until there is room or `stopping` is set.
    Raises: InputError where torch cannot.
    """
    import ray

    if not gpus:
        if ray.cluster_resources().get("GPU"):
            say(IDLE_GPU)
        return
    trying = ray.remote(num_cpus=0, num_gpus=gpus, max_retries=0)(_fault_of_gpu).remote(gpus)
    began, told = time.monotonic(), False
    while not ray.wait([trying], timeout=1.0)[0]:
        if stopping.is_set():
            ray.cancel(trying)
            return
        if not told and time.monotonic() - began > _GPU_SECONDS:
            say(f"waiting for {gpus:g} GPU of the cluster, which others hold")
            told = True
    if fault := ray.get(trying):
        raise InputError(f"resources.gpus: {fault}")


def _fault_of_gpu(gpus: float) -> str:
    try:
        reserved_device(gpus)
    except InputError as error:
        return str(error)
    return ""
