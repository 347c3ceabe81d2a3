"""Benchmark of a sweep on several Ray nodes that share nothing but S3: one node is killed, another one joins.

Each node has its own HOME, cache and temporary folder, and does not see those of the driver (mount namespaces, for
which Linux asks for root or user namespaces). S3 is moto's server. The table must equal that of one machine to the last
digit, and each lost trial may repeat one finished epoch.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import psutil
import typer

SWEEP = """
name: nodes
data: {root: ROOT, image_size: 32x64, val_fraction: 0.4}
model: {encoder: tiny, embedding_size: 16, weights: random}
loss: {name: [arcface, proxy_anchor]}
train: {epochs: EPOCHS, batch_size: 16, learning_rate: [RATES], precision: fp32}
retrieval: {vote: [nearest, softmax], neighbours: [1, 5], flip: [none, average]}
search: {strategy: grid}
bundle: {examples: 3, runtime: torch}
resources: {cpus: 1}
"""
TIMES = ("seconds", "milliseconds_per_image", "images_per_second")
EPOCH = re.compile(r"trial (\S+) epoch (\d+),")


class Machine:
    """A Ray node in a mount namespace of its own: other machines' homes are empty there.

    Args:
        home: Its home; cache and temporary files are in it.
        hidden: Homes of other machines.
        arguments: Arguments of `ray start`.
        environment: Environment variables.
    """

    def __init__(self, home: Path, hidden: list[Path], arguments: list[str], environment: dict[str, str]) -> None:
        home.mkdir(parents=True)
        self.name = home.name
        self.environment = environment | {"HOME": str(home), "WHALE_RAY_CACHE": str(home / "cache")}
        mounts = "".join(f"mount -t tmpfs none {folder}; " for folder in hidden)
        command = f"{mounts}exec {Path(sys.executable).with_name('ray')} start --block {' '.join(arguments)}"
        self.log = home / "ray.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*namespace(), "sh", "-c", command], env=self.environment, stdout=log, stderr=log
            )

    def wait_until_started(self) -> None:
        """Return when Ray runs; raise with its log if it does not."""
        wait_for(lambda: "Ray runtime started" in self.log.read_text() or self.process.poll() is not None, self.name)
        if self.process.poll() is not None:
            raise SystemExit(self.log.read_text())

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


def namespace() -> list[str]:
    """Return the command that runs another one with mounts of its own."""
    return ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]


def free_port() -> int:
    """Return a port of loopback that no process listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def moto(folder: Path) -> Iterator[str]:
    """Yield the URL of moto's S3."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    with (folder / "moto.log").open("w") as log:
        command = [sys.executable, "-m", "moto.server", "-p", str(port)]
        with subprocess.Popen(command, stdout=log, stderr=log) as process:
            try:
                wait_for(lambda: answers(url), "moto")
                yield url
            finally:
                process.kill()


def answers(url: str) -> bool:
    """Return whether a server answers."""
    with suppress(OSError):
        urllib.request.urlopen(url, timeout=1)
        return True
    return False


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
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self.address = f"127.0.0.1:{free_port()}"
        self.machines: dict[str, Machine] = {}
        self.start_head()

    def start_head(self) -> None:
        """Start the head, with which the driver shares its home."""
        port = self.address.rpartition(":")[2]
        self.head = self._machine(
            "driver", ["--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false"], hidden=[]
        )
        self.head.wait_until_started()

    def add(self, name: str) -> Machine:
        """Start a node and return it."""
        arguments = [f"--address={self.address}", "--num-cpus=1"]
        node = self.machines[name] = self._machine(name, arguments, hidden=[self.folder / "driver"])
        return node

    def _machine(self, name: str, arguments: list[str], *, hidden: list[Path]) -> Machine:
        arguments += [
            f"--temp-dir={self.folder / name}/r",
            "--dashboard-agent-listen-port=0",
            "--object-store-memory=100000000",
            "--disable-usage-stats",
        ]
        return Machine(self.folder / name, hidden, arguments, self.environment)

    def stop(self) -> None:
        """Kill all machines."""
        for machine in [*self.machines.values(), self.head]:
            machine.kill()


class Driver:
    """The command of the sweep, with the times of the lines that it prints."""

    def __init__(self, file: Path, runs: str, cluster: Cluster) -> None:
        self._log = file.with_suffix(".log")
        command = [sys.executable, "-m", "whale_ray.sweep", str(file), "--runs", runs, "--address", cluster.address]
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                command, env=cluster.head.environment, stdout=log, stderr=subprocess.STDOUT, cwd=file.parent
            )

    def lines(self) -> list[str]:
        """Return what it has printed."""
        return self._log.read_text().splitlines()

    def finished(self) -> int:
        """Return the number of finished trials."""
        return sum(" finished (" in line for line in self.lines())

    def repeats(self) -> dict[str, int]:
        """Return how many epochs each trial has reported more than once."""
        counts = Counter(match.groups() for line in self.lines() if (match := EPOCH.match(line)))
        found: Counter[str] = Counter()
        for (trial, _), count in counts.items():
            found[trial] += count - 1
        return {trial: count for trial, count in found.items() if count}


def node_of(machine: Machine) -> str | None:
    """Return the trial that runs on a machine, by its heartbeat."""
    found = list(Path(machine.environment["WHALE_RAY_CACHE"]).glob("runs/*/*/trials/*/alive"))
    return found[0].parent.name if found else None


def compare(first: Path, second: Path) -> int:
    """Return the number of trials of two run folders after checking that their tables are equal."""
    tables = []
    for run in (first, second):
        table = pd.read_csv(run / "leaderboard.csv").sort_values("trial", ignore_index=True)
        tables.append(table.drop(columns=[*TIMES, "rank"], errors="ignore"))
        for trial in table["trial"]:
            assert pd.read_csv(run / "trials" / trial / "epochs.csv")["epoch"].is_unique
    pd.testing.assert_frame_equal(tables[0], tables[1], check_exact=True)
    return len(tables[0])


def main(
    trials: Annotated[int, typer.Option(help="Number of trials, even.")] = 24,
    nodes: Annotated[int, typer.Option(help="Number of nodes with one place for a trial each.")] = 3,
    epochs: Annotated[int, typer.Option(help="Epochs of a trial.")] = 12,
    s3: Annotated[str, typer.Option(help="URL of a running moto server; empty: start one.")] = "",
    photographs: Annotated[str, typer.Option(help="Folder of photographs; empty: draw 72.")] = "",
) -> None:
    """Run the sweep on several nodes, kill one in the middle and compare the table with that of one machine."""
    begun = time.monotonic()

    def say(text: str) -> None:
        typer.echo(f"{time.monotonic() - begun:6.1f} s  {text}")

    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="wr"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        endpoint = s3 or stack.enter_context(moto(folder))
        environment = os.environ | {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
        }
        environment |= {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
        bucket = f"nodes-{folder.name.lower().replace('_', '-')}"
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{bucket}", method="PUT"))
        file = write_sweep(folder, photographs, trials=trials, epochs=epochs)

        cluster = Cluster(folder, environment)
        stack.callback(cluster.stop)
        for node in [cluster.add(f"n{number}") for number in range(nodes)]:
            node.wait_until_started()
        say(f"{nodes} nodes run, each with one place for a trial")
        driver = Driver(file, f"s3://{bucket}", cluster)
        stack.callback(driver.process.kill)
        disturb(driver, cluster, after=trials // 3, say=say)
        wait_for(lambda: driver.process.poll() is not None, "the sweep", seconds=1800.0)
        say(f"the sweep has ended with exit code {driver.process.returncode}, {driver.finished()} trials finished")
        if driver.process.returncode:
            raise SystemExit("\n".join(driver.lines()[-40:]))
        repeats = driver.repeats()
        say(f"epochs that were trained again, by trial: {repeats}")
        assert all(count <= 1 for count in repeats.values()), repeats
        cluster.stop()
        alone = run_alone(file, folder / "alone", environment)
        (mirror,) = folder.glob("driver/cache/runs/*/nodes")
        count = compare(mirror, alone)
        say(f"the table of {count} trials equals that of one machine to the last digit")


def run_alone(file: Path, runs: Path, environment: dict[str, str]) -> Path:
    """Run the sweep trial by trial in one process, without Ray, and return its run folder."""
    code = (
        "import sys; from whale_ray.sweep.config.sweep_spec import load_sweep; "
        "from whale_ray.sweep.execution.driver import run_sweep; "
        "run_sweep(load_sweep(sys.argv[1], []), runs=sys.argv[2], in_process=True)"
    )
    command = [sys.executable, "-c", code, str(file), str(runs)]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, cwd=file.parent)
    return runs / "nodes"


def write_sweep(folder: Path, photographs: str, *, trials: int, epochs: int) -> Path:
    """Write the sweep file, draw photographs if there are none, and return the file."""
    if not photographs:
        from whale_ray.data.synthetic.dataset import draw_dataset

        photographs = str(folder / "drawn")
        draw_dataset(Path(photographs), individuals=8, images=72, difficulty=0.2, size=(32, 64), workers=1)
    rates = ", ".join(f"{1.0e-3 * (1 + number):g}" for number in range(trials // 2))
    text = SWEEP.replace("ROOT", photographs).replace("RATES", rates).replace("EPOCHS", str(epochs))
    file = folder / "nodes.yaml"
    file.write_text(text)
    return file


def disturb(driver: Driver, cluster: Cluster, *, after: int, say: Any) -> None:
    """Kill a node that has a trial when some trials have finished, and start another one.

    Args:
        driver: The running sweep.
        cluster: Its nodes.
        after: Number of finished trials.
        say: Prints a line.
    """
    victims = list(cluster.machines.values())

    def busy() -> Machine | None:
        return next((one for one in victims if (trial := node_of(one)) and has_epochs(driver, trial)), None)

    wait_for(lambda: (driver.finished() >= after and busy() is not None) or driver.process.poll() is not None, "trials")
    victim = busy()
    if victim is None:
        raise SystemExit("\n".join(driver.lines()[-40:]))
    say(f"{driver.finished()} trials have finished; node {victim.name} is killed with trial {node_of(victim)}")
    victim.kill()
    added = cluster.add("new")
    added.wait_until_started()
    say("another node has joined")
    wait_for(lambda: node_of(added) is not None or driver.process.poll() is not None, "a trial on the new node")
    say(f"the new node has trial {node_of(added)}")


def has_epochs(driver: Driver, trial: str) -> bool:
    """Return whether a trial has reported three epochs or more in this run, and has not ended."""
    lines = [line for line in driver.lines() if line.startswith(f"trial {trial} ")]
    return sum("epoch" in line for line in lines) >= 3 and not any("finished" in line for line in lines)


if __name__ == "__main__":
    typer.run(main)
