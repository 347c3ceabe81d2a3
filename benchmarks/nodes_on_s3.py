"""Benchmark of a sweep on several Ray nodes that share nothing but S3: nodes are lost, and others join.

Each node has its own HOME, cache and temporary folder, and does not see those of the driver (mount namespaces, for
which Linux asks for root or user namespaces). S3 is moto's server. The table must equal that of one machine to the last
digit, and each lost trial may repeat one finished epoch.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Annotated

import pandas as pd
import psutil
import typer
from ray_machines import Cluster, Machine, free_port, node_environment, wait_for

SWEEP = """
name: nodes
data: {root: ROOT, image_size: 32x64, val_fraction: 0.4}
model: {encoder: tiny, embedding_size: 16, weights: random}
loss: {name: LOSSES}
train: {epochs: EPOCHS, batch_size: 16, learning_rate: [RATES], precision: fp32}
retrieval: {vote: [nearest, softmax], neighbours: [1, 5], flip: [none, average]}
search: {strategy: grid}
bundle: {examples: 3, runtime: torch}
resources: {cpus: 1, workers: WORKERS}
"""
_AT_ONCE = 3  # nodes that start; with eight, Ray's own limits end the start on two cores
TIMES = ("seconds", "milliseconds_per_image", "images_per_second")
EPOCH = re.compile(r"trial (\S+) epoch (\d+),")


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


@contextmanager
def cluster_on_s3(nodes: int, s3: str) -> Iterator[tuple[Cluster, str]]:
    """Yield a running cluster whose machines share nothing but S3, and the URL of an empty bucket.

    Args:
        nodes: Number of nodes, n0, n1, …
        s3: URL of a running moto server; empty: start one.
    """
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="wr"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        endpoint = s3 or stack.enter_context(moto(folder))
        bucket = f"nodes-{folder.name.lower().replace('_', '-')}"
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{bucket}", method="PUT"))
        storage = {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        cluster = Cluster(folder, node_environment() | storage)
        stack.callback(cluster.stop)
        for first in range(0, nodes, _AT_ONCE):
            for node in [cluster.add(f"n{number}") for number in range(first, min(nodes, first + _AT_ONCE))]:
                node.wait_until_started()
        yield cluster, f"s3://{bucket}"


def answers(url: str) -> bool:
    """Return whether a server answers."""
    with suppress(OSError):
        urllib.request.urlopen(url, timeout=1)
        return True
    return False


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

    def has_ended(self) -> bool:
        """Return whether the command has ended."""
        return self.process.poll() is not None

    def follow(self, trials: int, cluster: Cluster, say: Callable[[str], None]) -> None:
        """Return when the command has ended; say what it has cost after each quarter of the trials.

        Args:
            trials: Number of trials.
            cluster: The nodes; say when each has had a trial.
            say: Prints a line.
        """
        end, quarter = time.monotonic() + max(1800.0, 5.0 * trials), max(1, trials // 4)
        last, used = 0, 0.0
        idle = set(cluster.machines)
        while not self.has_ended():
            if idle and not (idle := {name for name in idle if not trials_of(cluster.machines[name])}):
                say(f"each node has had a trial; {self.finished()} have finished")
            with suppress(psutil.Error):
                if (now := self.finished()) >= last + quarter:
                    process = psutil.Process(self.process.pid)
                    seconds, memory = sum(process.cpu_times()[:2]), process.memory_info().rss / 2**20
                    cost = 1000.0 * (seconds - used) / (now - last)
                    say(f"{now} trials have finished; driver: {cost:.0f} ms of a core per trial, {memory:.0f} MiB")
                    last, used = now, seconds
            if time.monotonic() > end:
                raise TimeoutError("the sweep")
            time.sleep(0.5)

    def starts(self, trial: str) -> int:
        """Return how often a trial was started."""
        return sum(line.startswith(f"trial {trial} starts") for line in self.lines())

    def trains(self, trial: str) -> bool:
        """Return whether a trial has reported three epochs or more, and has not ended."""
        lines = [line for line in self.lines() if line.startswith(f"trial {trial} ")]
        return sum(" epoch " in line for line in lines) >= 3 and not any(" finished " in line for line in lines)

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


def trials_of(machine: Machine) -> int:
    """Return how many trials a machine has had."""
    return len(list(Path(machine.environment["WHALE_RAY_CACHE"]).glob("runs/*/*/trials/*")))


def compare(first: Path, second: Path) -> int:
    """Return the number of trials of two run folders after checking that their tables are equal."""
    tables = []
    for run in (first, second):
        table = pd.read_csv(run / "leaderboard.csv").sort_values("trial", ignore_index=True)
        tables.append(table.drop(columns=[*TIMES, "rank"], errors="ignore"))
        for path in run.glob("trials/*/epochs.csv"):
            assert pd.read_csv(path)["epoch"].is_unique
    pd.testing.assert_frame_equal(tables[0], tables[1], check_exact=True)
    return len(tables[0])


def compare_losses(first: Path, second: Path) -> float:
    """Return the largest relative difference of the losses of two run folders, epoch by epoch."""
    found = [0.0]
    for path in first.glob("trials/*/epochs.csv"):
        ours, theirs = (pd.read_csv(run / path.relative_to(first))["loss"].to_numpy() for run in (first, second))
        found.append(float(abs(ours / theirs - 1.0).max()))
    return max(found)


def main(
    trials: Annotated[int, typer.Option(help="Number of trials beside the baseline: 1, or even.")] = 24,
    nodes: Annotated[int, typer.Option(help="Number of nodes with one place for a trial each.")] = 3,
    epochs: Annotated[int, typer.Option(help="Epochs of a trial.")] = 12,
    workers: Annotated[int, typer.Option(help="Workers of a trial; with several, losses are compared.")] = 1,
    losses: Annotated[str, typer.Option(help="kill, terminate, freeze, head: one after the other; none.")] = "kill",
    s3: Annotated[str, typer.Option(help="URL of a running moto server; empty: start one.")] = "",
    photographs: Annotated[str, typer.Option(help="Folder of photographs; empty: draw 72.")] = "",
) -> None:
    """Run the sweep on several nodes, lose some in the middle and compare the table with that of one machine."""
    begun = time.monotonic()

    def say(text: str) -> None:
        typer.echo(f"{time.monotonic() - begun:6.1f} s  {text}")

    with ExitStack() as stack:
        cluster, bucket = stack.enter_context(cluster_on_s3(nodes, s3))
        say(f"{nodes} nodes run, each with one place for a trial")
        folder, environment = cluster.folder, cluster.environment
        file = write_sweep(folder, photographs, trials=trials, epochs=epochs, workers=workers)
        disturbance = Disturbance(cluster, lambda: Driver(file, bucket, cluster), say)
        stack.callback(lambda: disturbance.driver.process.kill())
        try:
            for number, loss in enumerate([] if losses == "none" else losses.split(","), start=1):
                disturbance.lose(loss, after=number * trials // 4)
            driver = disturbance.driver
            driver.follow(trials, cluster, say)
        except TimeoutError:
            typer.echo("\n".join(disturbance.driver.lines()[-100:]))
            raise
        say(f"the sweep has ended with exit code {driver.process.returncode}, {driver.finished()} trials finished")
        if driver.process.returncode:
            raise SystemExit("\n".join(driver.lines()[-40:]))
        say(f"trials of each node: { ({node.name: trials_of(node) for node in cluster.started[1:]}) }")
        repeats = driver.repeats()
        say(f"epochs that were trained again, by trial: {repeats}")
        assert all(count <= 1 for count in repeats.values()), repeats
        cluster.stop()
        alone = run_alone(file, folder / "alone", environment)
        (mirror,) = folder.glob("driver/cache/runs/*/nodes")
        if workers > 1:
            difference = compare_losses(mirror, alone)
            say(f"the losses of the epochs differ from one worker's by at most {difference:.1e}")
            assert difference < 1e-2
        else:
            say(f"the table of {compare(mirror, alone)} trials equals that of one machine to the last digit")


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


def write_sweep(folder: Path, photographs: str, *, trials: int, epochs: int, workers: int) -> Path:
    """Write the sweep file, draw photographs if there are none, and return the file."""
    if not photographs:
        from whale_ray.data.synthetic.dataset import draw_dataset

        photographs = str(folder / "drawn")
        draw_dataset(Path(photographs), individuals=8, images=72, difficulty=0.2, size=(32, 64), workers=1)
    rates = ", ".join(f"{1.0e-3 * (1 + number):g}" for number in range(max(1, trials // 2)))
    text = (
        SWEEP.replace("ROOT", photographs)
        .replace("LOSSES", "[arcface, proxy_anchor]" if trials > 1 else "arcface")
        .replace("RATES", rates)
        .replace("EPOCHS", str(epochs))
        .replace("WORKERS", str(workers))
    )
    file = folder / "nodes.yaml"
    file.write_text(text)
    return file


class Disturbance:
    """Takes nodes from a running sweep, one after the other, and gives it new ones.

    Args:
        cluster: The nodes.
        start: Starts the command of the sweep.
        say: Prints a line.
    """

    def __init__(self, cluster: Cluster, start: Callable[[], Driver], say: Callable[[str], None]) -> None:
        self._cluster, self._start, self._say = cluster, start, say
        self.driver = start()

    def lose(self, loss: str, *, after: int) -> None:
        """Lose a node that trains, or the head, when some trials have finished.

        Args:
            loss: kill (SIGKILL); terminate (SIGTERM and SIGKILL five seconds later); freeze (cut off until its trial
                runs elsewhere); head (head and driver killed, another cluster, the same command).
            after: Number of finished trials.
        """
        driver = self.driver
        wait_for(lambda: driver.has_ended() or (driver.finished() >= after and self._busy()), "trials", seconds=600.0)
        victim = self._busy()
        if victim is None:
            self._say(f"{loss}: no node trains any more")
            return
        trial = str(node_of(victim))
        self._say(f"{driver.finished()} trials have finished; {loss}: node {victim.name} with trial {trial}")
        if loss == "head":
            self._restart()
            return
        if loss == "kill":
            victim.kill()
        if loss == "terminate":
            victim.terminate(seconds=5.0)
        if loss == "freeze":
            victim.signal(signal.SIGSTOP)
        del self._cluster.machines[victim.name]
        added = self._cluster.add(f"new{len(self._cluster.started)}")
        added.wait_until_started()
        self._say(f"node {added.name} has joined")
        if loss == "freeze":
            wait_for(lambda: driver.has_ended() or driver.starts(trial) > 1, "the trial elsewhere", seconds=600.0)
            victim.signal(signal.SIGCONT)
            self._say(f"node {victim.name} is back; trial {trial} was started elsewhere")
        wait_for(lambda: driver.has_ended() or node_of(added), "a trial on the new node", seconds=600.0)
        self._say(f"node {added.name} has trial {node_of(added)}")

    def _restart(self) -> None:
        self.driver.process.kill()
        self._cluster.head.kill()
        self._cluster.start_head()
        for node in [self._cluster.add(f"new{len(self._cluster.started)}") for _ in range(2)]:
            node.wait_until_started()
        self._say("another cluster runs; the nodes of the old one still train")
        self.driver = self._start()

    def _busy(self) -> Machine | None:
        machines = self._cluster.machines.values()
        return next((one for one in machines if (trial := node_of(one)) and self.driver.trains(trial)), None)


if __name__ == "__main__":
    typer.run(main)
