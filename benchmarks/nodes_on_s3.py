"""Benchmark of a sweep on several Ray nodes that share nothing but S3: nodes are lost, and others join.

Each node has its own HOME, cache and temporary folder, and does not see those of the driver (mount namespaces, for
which Linux asks for root or user namespaces). S3 is moto's server. The table must equal that of one machine to the last
digit. Each loss may repeat one finished epoch of a trial, and none if the node was warned.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from node_losses import Disturbance, Driver, trials_of
from ray_machines import Cluster
from s3_cluster import cluster_on_s3

SWEEP = """
name: NAME
data: {root: ROOT, image_size: SIZE, val_fraction: 0.4}
model: {encoder: tiny, embedding_size: 16, weights: random}
loss: {name: arcface}
train: {epochs: EPOCHS, batch_size: 16, learning_rate: [RATES], precision: fp32}
retrieval: {vote: [nearest, softmax], neighbours: [1, 5], flip: [none, average]}
search: {strategy: grid}
bundle: {examples: 3, runtime: torch}
resources: {cpus: 1, workers: WORKERS}
"""
TIMES = ("seconds", "milliseconds_per_image", "images_per_second")
LOSSES = "kill, terminate, freeze, cut, head: with a comma one after the other, with + at the same time; none."
Nodes = Annotated[int, typer.Option(help="Number of nodes with one place for a trial each.")]
Epochs = Annotated[int, typer.Option(help="Epochs of a trial.")]
RATE = 1.0e-3  # learning rate of the first trial; the others have multiples of it


def compare(first: Path, second: Path, *, together: float | None) -> int:
    """Return the number of trials of two run folders after checking that their tables are equal.

    Args:
        first: A run folder.
        second: Another one.
        together: Learning rate of the trial that is not compared; None for none.
    """
    tables = []
    for run in (first, second):
        table = pd.read_csv(run / "leaderboard.csv").sort_values("trial", ignore_index=True)
        if together is not None:
            table = table[table["train.learning_rate"] != together].reset_index(drop=True)
        tables.append(table.drop(columns=[*TIMES, "rank"], errors="ignore"))
        for path in run.glob("trials/*/epochs.csv"):
            assert pd.read_csv(path)["epoch"].is_unique
    pd.testing.assert_frame_equal(tables[0], tables[1], check_exact=True)
    return len(tables[0])


def compare_losses(first: Path, second: Path, rate: float) -> float:
    """Return the largest relative difference of the losses of a trial's first epochs in two run folders.

    Rounding differs with the number of workers, and each further epoch multiplies that.

    Args:
        first: A run folder.
        second: Another one.
        rate: Learning rate of the trial.
    """
    table = pd.read_csv(first / "leaderboard.csv")
    path = f"trials/{table.loc[table['train.learning_rate'] == rate, 'trial'].item()}/epochs.csv"
    ours, theirs = (pd.read_csv(run / path)["loss"].head(3).to_numpy() for run in (first, second))
    return float(abs(ours / theirs - 1.0).max())


def main(
    trials: Annotated[int, typer.Option(help="Number of trials beside the baseline.")] = 24,
    nodes: Nodes = 3,
    epochs: Epochs = 12,
    workers: Annotated[
        int, typer.Option(help="With several, one trial more that so many workers train at the end.")
    ] = 1,
    losses: Annotated[str, typer.Option(help=LOSSES)] = "kill",
    s3: Annotated[str, typer.Option(help="URL of a running moto server; empty, or with cut: start one.")] = "",
    photographs: Annotated[str, typer.Option(help="Folder of photographs; empty: draw 72.")] = "",
) -> None:
    """Run the sweep on several nodes, lose some in the middle and compare the table with that of one machine."""
    begun = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # nodes and networks end with this process

    def say(text: str) -> None:
        typer.echo(f"{time.monotonic() - begun:6.1f} s  {text}")

    with ExitStack() as stack:
        cluster, bucket = stack.enter_context(cluster_on_s3(nodes, s3, has_networks="cut" in losses))
        say(f"{nodes} nodes run, each with one place for a trial")
        photographs = photographs or draw_photographs(cluster.folder / "drawn")
        file = write_sweep(cluster.folder / "nodes.yaml", photographs, trials=trials, epochs=epochs)
        last = file
        if workers > 1:
            name = cluster.folder / "together.yaml"
            last = write_sweep(name, photographs, trials=trials + 1, epochs=epochs, workers=workers)
        alone = stack.enter_context(running_alone(last, cluster))
        groups = [] if losses == "none" else [group.split("+") for group in losses.split(",")]
        run_disturbed(file, bucket, cluster, groups, trials=trials, say=say)
        if workers > 1:
            grow(last, bucket, cluster, workers=workers, say=say)
        say(f"trials of each node: { ({node.name: trials_of(node) for node in cluster.started[1:]}) }")
        cluster.stop()
        assert alone.wait() == 0
        (mirror,) = cluster.folder.glob("driver/cache/runs/*/nodes")
        run = cluster.folder / "alone" / "nodes"
        rate = (trials + 1) * RATE if workers > 1 else None
        if rate is not None:
            difference = compare_losses(mirror, run, rate)
            say(f"the first losses of {workers} workers differ from one worker's by at most {difference:.1e}")
            assert difference < 1e-3
        say(f"the table of {compare(mirror, run, together=rate)} trials equals that of one machine to the last digit")


def run_disturbed(
    file: Path, bucket: str, cluster: Cluster, groups: list[list[str]], *, trials: int, say: Callable[[str], None]
) -> None:
    """Run the sweep to its end, lose nodes meanwhile and check how many epochs were trained again.

    Args:
        file: The sweep file.
        bucket: URL of run folders.
        cluster: The nodes.
        groups: Losses; those of a group at the same time.
        trials: Number of trials.
        say: Prints a line.
    """
    disturbance = Disturbance(cluster, lambda: Driver(file, bucket, cluster), say)
    try:
        for number, group in enumerate(groups, start=1):
            disturbance.lose(group, after=number * trials // 4)
        disturbance.rejoin()
        disturbance.driver.follow(trials, cluster, say)
    except (TimeoutError, AssertionError):
        typer.echo("\n".join(disturbance.driver.lines()[-100:]))
        raise
    finally:
        disturbance.driver.process.kill()
    repeats = disturbance.driver.repeats()
    say(f"epochs that were trained again, by trial: {dict(repeats)}")
    allowed = disturbance.losses - Counter(disturbance.warned)
    assert repeats <= allowed, (repeats, allowed)


def grow(file: Path, bucket: str, cluster: Cluster, *, workers: int, say: Callable[[str], None]) -> None:
    """Let the sweep grow by a trial with workers on several nodes, and kill one of them after an epoch.

    Args:
        file: The sweep file.
        bucket: URL of run folders.
        cluster: The nodes.
        workers: Number of workers.
        say: Prints a line.
    """
    say(f"the sweep grows by a trial of {workers} workers")
    driver = Driver(file, bucket, cluster)
    try:
        say(f"a worker on node {driver.lose_training_worker(cluster).name} is killed")
        driver.follow(1, cluster, say)
    finally:
        driver.process.kill()
    say(f"epochs that were trained again: {sum(driver.repeats().values())}")
    assert sum(driver.repeats().values()) <= 1


@contextmanager
def running_alone(file: Path, cluster: Cluster) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a process that runs the sweep trial by trial, without Ray, on what the cluster leaves of the cores.

    Args:
        file: The sweep file.
        cluster: Its folder gets the run folder, below `alone`.
    """
    code = (
        "import sys; from whale_ray.sweep.config.sweep_spec import load_sweep; "
        "from whale_ray.sweep.execution.driver import run_sweep; "
        "run_sweep(load_sweep(sys.argv[1], []), runs='alone', in_process=True)"
    )
    command = ["nice", "-n", "19", sys.executable, "-c", code, str(file)]
    with subprocess.Popen(command, env=cluster.environment, stdout=subprocess.DEVNULL, cwd=cluster.folder) as process:
        try:
            yield process
        finally:
            process.kill()


def draw_photographs(folder: Path) -> str:
    """Draw 72 photographs into a folder and return it."""
    from whale_ray.data.synthetic.dataset import draw_dataset

    draw_dataset(folder, individuals=8, images=72, difficulty=0.2, size=(32, 64), workers=1)
    return str(folder)


def write_sweep(
    file: Path,
    photographs: str,
    *,
    trials: int,
    epochs: int,
    workers: int = 1,
    name: str = "nodes",
    image_size: str = "32x64",
) -> Path:
    """Write a sweep file and return it.

    Args:
        file: The file.
        photographs: Folder of the photographs.
        trials: Number of learning rates, and so of trials for each image size.
        epochs: Epochs of a trial.
        workers: Workers of a trial.
        name: Name of the sweep.
        image_size: Image size, or a list of them, in YAML.
    """
    values = {
        "NAME": name,
        "ROOT": photographs,
        "SIZE": image_size,
        "RATES": ", ".join(f"{RATE * (1 + number):g}" for number in range(trials)),
        "EPOCHS": str(epochs),
        "WORKERS": str(workers),
    }
    text = SWEEP
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    file.write_text(text)
    return file


if __name__ == "__main__":
    typer.run(main)
