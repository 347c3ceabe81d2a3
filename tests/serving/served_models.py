"""Services that `whale-ray serve` starts on a Ray of their own, and bundles for them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from server_processes import free_port
from services import descendants, process, write_named
from waiting import wait_until

COMMAND = (sys.executable, "-c", "from whale_ray.cli import main; main()")


@dataclass
class Running:
    """A service, where it listens, where its Ray listens, and its process."""

    url: str
    ray: str
    pid: int

    def model(self) -> dict[str, object]:
        return dict(httpx.get(f"{self.url}/v1/model").json())

    def deploy(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [*COMMAND, "deploy", *map(str, arguments), "--address", self.ray]
        return subprocess.run(command, capture_output=True, text=True, timeout=540)

    def processes(self, deployment: str) -> list[int]:
        """The processes of a deployment's replicas."""
        found = []
        for pid in descendants(self.pid):
            try:
                name = Path(f"/proc/{pid}/cmdline").read_text()
            except OSError:
                continue
            if name.startswith(f"ray::ServeReplica:whale_ray:{deployment}"):
                found.append(pid)
        return found

    def wait_for_replicas(self, count: int, *, without: int = 0) -> None:
        """Return once there are so many; a killed process is listed for a moment."""
        wait_until(lambda: len({*self.processes("whale_ray")} - {without}) == count, rest=0.2)


def serve(*arguments: str) -> Iterator[Running]:
    output: list[str] = []
    port = free_port()
    with process(*COMMAND, "serve", *arguments, "--port", str(port), ready="/v1/identify", output=output) as running:
        (address,) = re.findall(r"--address (\S+)", "".join(output))
        yield Running(f"http://127.0.0.1:{port}", address, running.pid)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a bundle of this id; all of them have the same encoder and gallery."""
    folder = tmp_path_factory.mktemp("bundles")

    def write(name: str, **changes: object) -> Path:
        return folder / name if (folder / name).exists() else write_named(folder, name, **changes)

    return write
