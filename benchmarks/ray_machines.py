"""Ray nodes of one machine that share no files: each has a home of its own and a mount namespace (Linux)."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from node_network import NodeNetwork

from whale_ray.ray_private import SOCKET_POLLING


class Machine:
    """A Ray node in a mount namespace of its own: other machines' homes are empty there.

    Args:
        home: Its home; cache and temporary files are in it.
        hidden: Homes of other machines.
        arguments: Arguments of `ray start`.
        environment: Environment variables.
        enter: Command that runs another one in the node's network; empty for that of this process.
    """

    def __init__(
        self, home: Path, hidden: list[Path], arguments: list[str], environment: dict[str, str], enter: Iterable[str]
    ) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.name = home.name
        self.environment = environment | {"HOME": str(home), "WHALE_RAY_CACHE": str(home / "cache")}
        mounts = "".join(f"mount -t tmpfs none {folder}; " for folder in hidden)
        command = f"{mounts}exec {Path(sys.executable).with_name('ray')} start --block {' '.join(arguments)}"
        self.log = home / "ray.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*enter, *namespace(), "sh", "-c", command], env=self.environment, stdout=log, stderr=log
            )

    def wait_until_started(self) -> None:
        """Return when Ray runs; raise with its log if it does not."""
        try:
            wait_for(lambda: "Ray runtime started" in self.log.read_text() or self.process.poll() is not None, "Ray")
        except TimeoutError:
            self.kill()
        if self.process.poll() is not None:
            raise SystemExit(f"Ray must start on {self.name}, but did not:\n{self.log.read_text()}")

    def processes(self) -> list[psutil.Process]:
        """Return Ray's processes of this machine, its workers included."""
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.process.pid)
            return [parent, *parent.children(recursive=True)]
        return []

    def kill(self) -> None:
        """Kill all of its processes at once, as if its power had failed."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()

    def terminate(self, *, seconds: float) -> None:
        """Send SIGTERM to `ray start`, and SIGKILL to all processes some seconds later, as the end of a spot machine.

        Workers may outlive `ray start`, which waits a second for each process, and publish their last epoch.

        Args:
            seconds: Seconds between the two, if a process runs as long.
        """
        others = self.processes()[1:]
        end = time.monotonic() + seconds
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=seconds)
        _, left = psutil.wait_procs(others, timeout=max(0.0, end - time.monotonic()))
        self.kill()
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all processes."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)


def node_environment() -> dict[str, str]:
    """Return the environment of this process for nodes: without tokens of another Ray, with one thread.

    A node that does not answer is given up after 10 s, not after 63 s, and SIGTERM ends its workers after 1 s. Ray's
    processes look for each other's sockets 20 times a second, not once.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    health = {"period_ms": 1000, "timeout_ms": 4000, "failure_threshold": 2}
    return environment | {
        "OMP_NUM_THREADS": "1",
        "RAY_raylet_start_wait_time_s": "120",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "1",
        **SOCKET_POLLING,
        "RAY_raylet_client_num_connect_attempts": "2400",
        **{f"RAY_health_check_{name}": str(value) for name, value in health.items()},
    }


def namespace() -> list[str]:
    """Return the command that runs another one with mounts of its own."""
    return ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]


def free_port() -> int:
    """Return a free port outside the range from which the system and Ray assign ports."""
    while True:
        port = random.randrange(21_000, 32_000)
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port


def wait_for(is_met: Any, name: str, *, seconds: float = 120.0) -> None:
    """Return when a condition is met; raise if it is not met in time."""
    end = time.monotonic() + seconds
    while not is_met():
        if time.monotonic() > end:
            raise TimeoutError(name)
        time.sleep(0.05)


class Cluster:
    """A head without places for trials, and nodes with one each.

    Args:
        folder: Folder of all homes.
        environment: Environment variables of all machines.
        network: Network that they share; None for that of this process.
    """

    def __init__(self, folder: Path, environment: dict[str, str], network: NodeNetwork | None = None) -> None:
        self.folder, self.environment, self.network = folder, environment, network
        self.machines: dict[str, Machine] = {}
        self.started: list[Machine] = []
        self.start_head()

    def start_head(self) -> None:
        """Start the head of a new cluster, with which the driver shares its home."""
        self.machines = {}
        host = self.network.host if self.network else "127.0.0.1"
        self.address = f"{host}:{(port := free_port())}"
        # Ray's default port of its client server would end a second head on this machine.
        options = ("--num-cpus=0", "--include-dashboard=false", "--no-monitor")
        place = (f"--node-ip-address={host}", f"--port={port}", f"--ray-client-server-port={free_port()}")
        self.head = self._machine("driver", ["--head", *place, *options], hidden=[])
        self.head.wait_until_started()

    def add_all(self, names: Iterable[str]) -> list[Machine]:
        """Start nodes at the same time and return them when Ray runs on all."""
        added = [self.add(name) for name in names]
        for node in added:
            node.wait_until_started()
        return added

    def add(self, name: str, *, without: Path | None = None) -> Machine:
        """Start a node and return it.

        Args:
            name: Its name.
            without: A folder that is empty there, beside the home of the driver.
        """
        arguments, enter = [f"--address={self.address}", "--num-cpus=1"], list[str]()
        if self.network:
            enter, address = self.network.join(name)
            arguments.append(f"--node-ip-address={address}")
        hidden = [self.folder / "driver", *([] if without is None else [without])]
        node = self.machines[name] = self._machine(name, arguments, hidden=hidden, enter=enter)
        return node

    def _machine(self, name: str, arguments: list[str], *, hidden: list[Path], enter: Iterable[str] = ()) -> Machine:
        arguments += [
            f"--temp-dir={self.folder / name}/r{len(self.started)}",
            "--dashboard-agent-listen-port=0",
            "--include-log-monitor=false",
            "--object-store-memory=100000000",
            "--disable-usage-stats",
        ]
        self.started.append(Machine(self.folder / name, hidden, arguments, self.environment, enter))
        return self.started[-1]

    def stop(self) -> None:
        """Kill all machines."""
        for machine in reversed(self.started):
            machine.kill()
