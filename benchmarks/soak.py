"""Soak test of a service: minutes at 70 % load with enrolments, a killed replica and two exchanged bundles.

It reports the failed calls with their times, the bundles that answered, and the memory of all processes. The service
has two replicas behind HAProxy and ResNet-18 at 64 pixels. Enrolment is skipped if the service does not offer it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import httpx
import paired_timing
import psutil
import typer
from clients import Answers, ask_for, ask_while, photograph_request
from serving import behind_haproxy, free_port, make_bundle, pictures, server, service_command

CLIENTS = 8
LOAD = 0.7
AFTER_KILL = 15.0
ENROL_EVERY = 5.0
MIB = 2**20


class Memory:
    """Memory of a process and its descendants every ten seconds: (seconds since the start, MiB)."""

    def __init__(self, pid: int) -> None:
        self._process, self._started = psutil.Process(pid), time.perf_counter()
        self.seen: list[tuple[float, float]] = []

    def look(self, number: int) -> None:
        """Add the memory in use now; shared memory counts in proportion (PSS)."""
        used = 0
        for process in (self._process, *self._process.children(recursive=True)):
            try:
                used += process.memory_full_info().pss
            except psutil.Error:
                continue
        self.seen.append((time.perf_counter() - self._started, used / MIB))


class Enrolments:
    """Enrols photographs of new individuals one after the other and counts the statuses."""

    def __init__(self, port: int) -> None:
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60.0)
        paths = self._client.get("/openapi.json").json()["paths"]
        self.possible = any("post" in calls for path, calls in paths.items() if path.startswith("/v1/individuals/{"))
        self.statuses: dict[int, int] = {}

    def enrol(self, number: int) -> None:
        """Enrol one photograph of a new individual."""
        (body,) = pictures(1, jitter=10_000 + number)
        try:
            status = self._client.post(f"/v1/individuals/soak_{number}/images", files={"image": body}).status_code
        except httpx.TransportError:
            status = 0
        self.statuses[status] = self.statuses.get(status, 0) + 1


@contextmanager
def repeating(seconds: float, work: Callable[[int], None]) -> Iterator[None]:
    """Call `work` with 0, 1, 2 … at a fixed interval on a thread until the block ends."""
    ending = threading.Event()

    def run() -> None:
        number = 0
        while not ending.wait(seconds):
            work(number)
            number += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def kill_replica(pid: int) -> None:
    """Kill one ingress replica."""
    for process in psutil.Process(pid).children(recursive=True):
        if "ServeReplica:whale_ray:whale_ray" in " ".join(process.cmdline()):
            os.kill(process.pid, signal.SIGKILL)
            return
    raise SystemExit("there is no replica to kill")


def exchange(bundle: Path, address: str) -> None:
    """Exchange the bundle of the service; raise CalledProcessError if that fails."""
    entry = "from whale_ray.cli import main; main()"
    subprocess.run([sys.executable, "-c", entry, "deploy", str(bundle), "--address", address], check=True)


def pause_for(port: int, requests: list[bytes]) -> float:
    """Return the seconds that each client waits between calls, so that all together cause 70 % load."""
    most = ask_for(8.0, port, requests, clients=CLIENTS)
    alone = ask_for(3.0, port, requests, clients=1)
    print(f"{most.rate:.0f} answers/s at most, {alone.milliseconds(50):.0f} ms alone", flush=True)
    return max(0.0, CLIENTS / (LOAD * most.rate) - alone.milliseconds(50) / 1000)


def disturb(seconds: float, pid: int, bundles: list[Path], address: str) -> float:
    """Exchange a bundle after a quarter and three quarters of the time, and kill a replica in between.

    Returns: when the replica was killed, by `time.perf_counter`.
    """
    time.sleep(seconds / 4)
    exchange(bundles[0], address)
    time.sleep(seconds / 4)
    kill_replica(pid)
    killed = time.perf_counter()
    time.sleep(seconds / 4)
    exchange(bundles[1], address)
    time.sleep(seconds / 4)
    return killed


def soak(minutes: float, port: int, pid: int, bundles: list[Path], address: str) -> None:
    """Run the load and the disturbances, and print the results."""
    requests = [photograph_request(body) for body in pictures(32)]
    pause = pause_for(port, requests)
    memory, enrolments, ended = Memory(pid), Enrolments(port), threading.Event()
    answers: list[Answers] = []

    def ask() -> None:
        asking = ask_while(lambda: not ended.is_set(), port, requests, clients=CLIENTS, pause=pause)
        answers.append(asyncio.run(asking))

    asking = threading.Thread(target=ask)
    asking.start()
    enrol = enrolments.enrol if enrolments.possible else lambda number: None
    try:
        with repeating(10.0, memory.look), repeating(ENROL_EVERY, enrol):
            killed = disturb(60.0 * minutes, pid, bundles, address)
    finally:
        ended.set()
        asking.join()
    report(answers[0], killed, memory, enrolments)


def report(answers: Answers, killed: float, memory: Memory, enrolments: Enrolments) -> None:
    """Print the failed calls, the bundles that answered and the growth of memory."""
    cut = [one for one in answers.failures if killed - 1.0 <= one[0] <= killed + AFTER_KILL]
    other = [one for one in answers.failures if one not in cut]
    good = len(answers.seconds.get(200, []))
    print(f"{good} answers in {answers.lasted:.0f} s, {answers.rate:.0f}/s; by bundle {answers.bundles}")
    print(f"p50 {answers.milliseconds(50):.0f} ms, p99 {answers.milliseconds(99):.0f} ms")
    print(f"cut by the kill: {len(cut)}; failed otherwise: {len(other)} {sorted({status for _, status in other})}")
    print(f"enrolments by status: {enrolments.statuses if enrolments.possible else 'the service offers no enrolment'}")
    rows = [[f"{seconds / 60:.1f}", f"{used:.0f}"] for seconds, used in memory.seen[:: max(1, len(memory.seen) // 12)]]
    paired_timing.print_table(["minutes", "MiB"], rows)
    paired_timing.print_verdict("failed calls, except those cut by the kill", float(len(other)), at_most=0.0)


def main(
    minutes: Annotated[float, typer.Argument(help="Duration; an exchange takes about a minute and a half.")] = 20.0,
) -> None:
    """Run the soak test for the given time."""
    with tempfile.TemporaryDirectory() as scratch:
        first, *others = (make_bundle(Path(scratch), 64, seed=seed) for seed in range(3))
        port = free_port()
        command = service_command([str(first)], port, "replicas=2")
        with server(command, ready="/v1/identify", **behind_haproxy()) as (lines, pid):
            address = next(line.split("--address")[1].strip() for line in lines if "--address" in line)
            soak(minutes, port, pid, others, address)


if __name__ == "__main__":
    typer.run(main)
