"""Benchmark of a sweep of 8 trials, from the command to the bundle, against the same trainings in sequence without Ray.

Both read the same cache of decoded photographs and end with the same leaderboard and bundle. The sweep runs as many
trials at once as there are cores, one thread each; the plain process trains in sequence with all cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

SWEEP = """
name: NAME
data: {root: ROOT, image_size: 48x96, group_column: Encounter}
model: {encoder: torchvision:resnet18, weights: random, embedding_size: [64, 128]}
loss: {name: [arcface, proxy_anchor]}
train: {epochs: 6, batch_size: 32, learning_rate: [1.0e-3, 2.0e-3], proxy_learning_rate: 2.0e-2, evaluate_every: 3}
retrieval: {neighbours: [1, 3, 5, 10], vote: [nearest, softmax]}
search: {strategy: grid}
"""
TRIALS = 8
GOAL = 1.0
OBSTACLE = "The start of Ray and of the trials' processes takes seconds before the first step of the sweep."


def run_plainly(file: Path, runs: Path) -> None:
    """Run the trainings of the sweep in sequence in this process, without Ray, and write its bundle."""
    from whale_ray.device import available_cpus
    from whale_ray.sweep.config.sweep_spec import load_sweep
    from whale_ray.sweep.execution.driver import run_sweep
    from whale_ray.sweep.execution.runners import sweep_session
    from whale_ray.sweep.run_folder.records import write_result
    from whale_ray.sweep.trials.trial_run import TrialRun

    trained: list[str] = []

    def back_to_back(store: Any, job: Any, progress: Any, stopping: threading.Event) -> None:
        for trial in store.queue.trials():
            started = time.perf_counter()
            figures = TrialRun(trial, replace(job, threads=available_cpus())).run(lambda figures: None)
            seconds = {"seconds": time.perf_counter() - started}
            write_result(store.index.trial_folder(trial), {**figures, **seconds, "status": "finished", "error": ""})
            store.outcomes.settle(trial, status="finished")
            trained.append(trial)

    vars(sweep_session).update(run_trials_in_process=back_to_back)
    assert run_sweep(load_sweep(file), runs=runs, in_process=True).bundle is not None
    assert len(trained) >= TRIALS
    assert "ray" not in sys.modules


def seconds_of(command: list[str]) -> float:
    """Return the seconds of a command; raise CalledProcessError if it fails."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def main(
    rounds: Annotated[
        int, typer.Option(help="Rounds, with the sweep and the plain process in alternation.", min=1)
    ] = 3,
    plain: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Time both; about five minutes per round on two cores."""
    if plain is not None:
        run_plainly(plain, plain.parent / "plain_runs")
        return
    import paired_timing

    from whale_ray.data.synthetic.dataset import draw_dataset

    taken: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "synthetic"
        draw_dataset(root, individuals=60, images=700, difficulty=0.4)
        os.environ["WHALE_RAY_CACHE"] = f"{scratch}/cache"
        for number in range(rounds):
            file = Path(scratch) / f"round{number}.yaml"
            file.write_text(SWEEP.replace("NAME", file.stem).replace("ROOT", str(root)))
            sweep = [sys.executable, "-m", "whale_ray.sweep", str(file), "--runs", f"{scratch}/runs"]
            first = seconds_of([*sweep, "--set", "train.epochs=1", "--set", "name=warm"]) if number == 0 else 0.0
            taken.append((seconds_of(sweep), seconds_of([sys.executable, __file__, "--plain", str(file)])))
            print(f"round {number + 1}: sweep {taken[-1][0]:.0f} s, plain {taken[-1][1]:.0f} s", flush=True)
            if first:
                print(f"(before, to warm the cache: 8 trials of one epoch, {first:.0f} s)", flush=True)
    rows = [
        [name, str(TRIALS), f"{median(each):.1f}"]
        for name, each in zip(("sweep", "plain"), zip(*taken, strict=True), strict=True)
    ]
    paired_timing.print_table(["case", "trials", "seconds"], rows)
    ratio = median(a / b for a, b in taken)
    paired_timing.print_verdict("seconds of the sweep / of the plain process", ratio, at_most=GOAL, obstacle=OBSTACLE)


if __name__ == "__main__":
    typer.run(main)
