"""Benchmark of the end of a sweep: seconds from the end of the last trial to the prompt, against the trials' own time.

The quickstart's sweep on drawn photographs, and with `--photographs` that of `sweeps/photos_best.yaml` on a folder. The
lines of the sweep are timed as they are printed; the trials' own time is the sum of their `seconds` in leaderboard.csv.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import paired_timing
import pandas as pd
import typer

from whale_ray.data.synthetic.dataset import draw_dataset

SWEEPS = Path(__file__).parents[1] / "sweeps"
SHARE_GOAL, SECONDS_GOAL = 0.05, 60.0
OBSTACLE = (
    "Ensemble, bundle, choice of a runtime, maps, backgrounds and review have fixed costs, and limits of their own in "
    "seconds; these trials are short."
)


@dataclass(frozen=True)
class Ending:
    """Times of a sweep.

    Attributes:
        seconds: From the end of the last trial to the end of the command.
        trials: Sum of the trials' own seconds.
        steps: Line that was printed after the last trial, and the seconds until the next one.
    """

    seconds: float
    trials: float
    steps: list[tuple[str, float]]


def time_sweep(file: Path, data: Path, runs: Path, options: list[str]) -> Ending:
    """Run a sweep and return the times of its end; raise SystemExit if it fails.

    Args:
        file: The sweep.
        data: Folder of the photographs.
        runs: Folder of run folders.
        options: Further arguments of the sweep.
    """
    command = [sys.executable, "-m", "whale_ray.sweep", str(file), "--data", str(data), "--runs", str(runs), *options]
    lines: list[tuple[str, float]] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            lines.append((line.rstrip(), time.perf_counter()))
    ended = time.perf_counter()
    if process.returncode:
        raise SystemExit("the sweep failed:\n" + "\n".join(line for line, _ in lines))
    last = max(place for place, (line, _) in enumerate(lines) if line.startswith("trial ") and " finished (" in line)
    after = [*lines[last:], ("", ended)]
    table = pd.read_csv(next(runs.glob("*/leaderboard.csv")))
    own = table.loc[~table["trial"].str.startswith("ensemble"), "seconds"].sum()
    steps = [(line, until - at) for (line, at), (_, until) in itertools.pairwise(after)]
    return Ending(ended - lines[last][1], float(own), steps)


def report(name: str, found: Ending) -> None:
    """Print the steps that took at least half a second, and the verdicts."""
    rows = [[line[:70], f"{seconds:.1f}"] for line, seconds in found.steps if seconds >= 0.5]
    paired_timing.print_table([f"{name}: after this line", "seconds"], rows)
    text = f"from the last trial to the prompt, {name}: seconds"
    paired_timing.print_verdict(
        f"{text} / of the trials", found.seconds / found.trials, at_most=SHARE_GOAL, obstacle=OBSTACLE
    )
    paired_timing.print_verdict(
        f"{text} / {SECONDS_GOAL:g} s", found.seconds / SECONDS_GOAL, at_most=1.0, obstacle=OBSTACLE
    )


def main(
    photographs: Annotated[Path | None, typer.Option(help="Photographs of sweeps/photos_best.yaml.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="A --set of that sweep, such as weights.")] = None,
) -> None:
    """Time the end of the quickstart, or of photos_best; two to three minutes on two cores."""
    with tempfile.TemporaryDirectory() as scratch:
        runs = Path(scratch) / "runs"
        if photographs is None:
            drawn = Path(scratch) / "synthetic"
            draw_dataset(drawn, individuals=24, images=900, difficulty=0.6)
            report("quickstart", time_sweep(SWEEPS / "quickstart.yaml", drawn, runs, []))
            return
        options = [word for one in option or () for word in ("--set", one)]
        report("photos_best", time_sweep(SWEEPS / "photos_best.yaml", photographs, runs, options))


if __name__ == "__main__":
    typer.run(main)
