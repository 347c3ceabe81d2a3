"""Benchmark of starting: `import whale_ray`, `--help` and `--dry-run` against their goals in seconds.

Each command is timed in alternation with a Python that does nothing (or imports torch and ray), and the seconds of
that Python's start are subtracted from `import` and `--help`, since no command can be faster.
"""

from __future__ import annotations

import pairs  # isort: skip  # sets one thread; must precede NumPy and torch
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from whale_ray.data.synthetic.dataset import draw_dataset

QUICKSTART = Path(__file__).parents[1] / "sweeps" / "quickstart.yaml"
IMPORT_GOAL, HELP_GOAL, DRY_RUN_GOAL = 0.3, 0.6, 3.0
"""Seconds beyond the start of Python; of the dry run, all seconds."""


def run(*arguments: str) -> None:
    """Run Python with these arguments; raise CalledProcessError if it fails."""
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main(
    rounds: Annotated[int, typer.Option(help="Rounds, in alternation.", min=1)] = 7,
    images: Annotated[int, typer.Option(help="Photographs that are drawn for the dry run.", min=200)] = 700,
) -> None:
    """Print the seconds of each start; about a minute."""
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
            pair = pairs.take_turns(command, beside, rounds=rounds)
            first, second = median(pair.first), median(pair.second)
            start = second if beside is bare else 0.0
            rows.append([name, f"{first:.2f}", "python" if beside is bare else "import torch, ray", f"{second:.2f}"])
            verdicts.append((f"{name}: seconds / {goal:g} s", (first - start) / goal))
    pairs.print_table(["command", "seconds", "beside", "seconds"], rows)
    for name, ratio in verdicts:
        pairs.print_verdict(name, ratio, at_most=1.0)


if __name__ == "__main__":
    typer.run(main)
