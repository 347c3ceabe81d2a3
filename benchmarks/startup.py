"""Benchmark of starting: `import whale_ray`, `--help` and `--dry-run` in seconds, and a service to its first answer.

Each command is timed in alternation with a Python that does nothing (or imports torch and ray), and the seconds of
that Python's start are subtracted from `import` and `--help`, since no command can be faster.
"""

from __future__ import annotations

import paired_timing  # isort: skip  # sets one thread; must precede NumPy and torch
import asyncio
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from clients import ask_while, photograph_request
from serving import behind_haproxy, free_port, make_bundle, pictures, server, service_command

from whale_ray.data.synthetic.dataset import draw_dataset

QUICKSTART = Path(__file__).parents[1] / "sweeps" / "quickstart.yaml"
IMPORT_GOAL, HELP_GOAL, DRY_RUN_GOAL = 0.3, 0.6, 3.0
"""Seconds beyond the start of Python; of the dry run, all seconds."""
SERVE_GOAL = 2.0
"""Times the import of torch and ray."""
OBSTACLE = "Modules that the command imports; pandas takes half a second of a dry run."
SERVE_OBSTACLE = (
    "The command, Serve's controller, both proxies and the replica each import Ray Serve, with pandas and FastAPI; the "
    "replica also imports torch, loads the bundle and checks its golden images. Two cores share this work."
)


def run(*arguments: str) -> None:
    """Run Python with these arguments; raise CalledProcessError if it fails."""
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def serve_once(bundle: Path, request: bytes) -> float:
    """Return the seconds from the command to the first answer."""
    port, started = free_port(), time.perf_counter()
    command = service_command([str(bundle)], port, "page=off", "store=none")
    with server(command, ready="/v1/identify", **behind_haproxy()):
        once = iter([True])
        answers = asyncio.run(ask_while(lambda: next(once, False), port, [request], clients=1))
        assert answers.rate, answers.failed
        return time.perf_counter() - started


def main(
    rounds: Annotated[int, typer.Option(help="Rounds, in alternation.", min=1)] = 7,
    images: Annotated[int, typer.Option(help="Photographs that are drawn for the dry run.", min=200)] = 700,
    serve: Annotated[bool, typer.Option(help="Time a service as well.")] = True,
) -> None:
    """Print the seconds of each start; about two minutes."""
    bare, heavy = partial(run, "-c", "pass"), partial(run, "-c", "import torch, ray")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "synthetic"
        draw_dataset(root, individuals=60, images=images, difficulty=0.4)
        dry = ("-m", "whale_ray.sweep", str(QUICKSTART), "--data", str(root), "--runs", f"{scratch}/runs", "--dry-run")
        cases = [
            ("import whale_ray", partial(run, "-c", "import whale_ray"), bare, IMPORT_GOAL),
            ("whale-ray --help", partial(run, "-m", "whale_ray.cli", "--help"), bare, HELP_GOAL),
            (f"sweep --dry-run, {images} photographs", partial(run, *dry), heavy, DRY_RUN_GOAL),
        ]
        rows, verdicts = [], []
        for name, command, beside, goal in cases:
            pair = paired_timing.take_turns(command, beside, rounds=rounds)
            first, second = median(pair.first), median(pair.second)
            start = second if beside is bare else 0.0
            rows.append([name, f"{first:.2f}", "python" if beside is bare else "import torch, ray", f"{second:.2f}"])
            verdicts.append((f"{name}: seconds / {goal:g} s", (first - start) / goal, 1.0, OBSTACLE))
        if serve:
            bundle = make_bundle(Path(scratch), 64, gallery=1_000, on_gpu=True)  # on torch, not chosen
            request = photograph_request(pictures(1)[0])
            waited = [(serve_once(bundle, request), paired_timing.seconds(heavy)[0]) for _ in range(min(rounds, 3))]
            first, second = (median(each) for each in zip(*waited, strict=True))
            rows.append(["whale-ray serve, first answer", f"{first:.2f}", "import torch, ray", f"{second:.2f}"])
            ratio = median(ours / other for ours, other in waited)
            text = "whale-ray serve to the first answer / import torch, ray"
            verdicts.append((text, ratio, SERVE_GOAL, SERVE_OBSTACLE))
    paired_timing.print_table(["command", "seconds", "beside", "seconds"], rows)
    for name, ratio, goal, obstacle in verdicts:
        paired_timing.print_verdict(name, ratio, at_most=goal, obstacle=obstacle)


if __name__ == "__main__":
    typer.run(main)
