"""Benchmark of the choice of a runtime: its duration, the recall@1 of the chosen one, its speed against torch.

ResNet-18 with random weights, 512 dimensions, at 224 pixels, a gallery of 2,000; one thread.
"""

from __future__ import annotations

import paired_timing  # isort: skip  # sets one thread; must precede NumPy and torch
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from serving import make_bundle, pictures

from whale_ray.inference.bundle import read_bundle
from whale_ray.inference.predictor import Bundle
from whale_ray.inference.runtime_benchmark import BenchmarkQueries, with_fastest_runtime

SECONDS_GOAL, GALLERY = 20.0, 2_000
SECONDS_OBSTACLE = (
    "Export to ONNX, quantization, two libraries that compile the encoder, and five rounds of each runtime."
)
SPEED_OBSTACLE = "No runtime on this machine is faster than torch and keeps its recall@1."


def main(
    size: Annotated[int, typer.Option(help="Side of the images in pixels.", min=32)] = 224,
) -> None:
    """Print the speed of each runtime and the verdicts; about half a minute."""
    with tempfile.TemporaryDirectory() as scratch:
        contents = read_bundle(make_bundle(Path(scratch), size, gallery=GALLERY, on_gpu=True))  # on torch, not chosen
        bundle = Bundle(contents)
        individuals = contents.table["individual"].tolist()[: 4 * 32 : 4]
        arrays, shown = ([bundle.prepare(one) for one in pictures(32, jitter=jitter)] for jitter in (1, 0))
        asked = BenchmarkQueries(arrays, individuals, np.arange(GALLERY), calibration=shown)
        started = time.perf_counter()
        named = with_fastest_runtime(contents, asked)
        seconds = time.perf_counter() - started
    chosen = named.manifest["runtime"]
    speeds, recalls = chosen["images_per_second"], chosen["recall@1"]
    rows = [
        [name, f"{alone:.1f}", f"{eight:.1f}", str(recalls.get(name, ""))] for name, (alone, eight) in speeds.items()
    ]
    paired_timing.print_table(["runtime", "images/s alone", "in eights", "recall@1"], rows)
    for name, reason in chosen["passed_over"].items():
        print(f"{name} is passed over: {reason}")
    here = f"{chosen['name']}, resnet18 at {size}x{size}"
    paired_timing.print_verdict(
        f"seconds of the choice / {SECONDS_GOAL:g} s", seconds / SECONDS_GOAL, at_most=1.0, obstacle=SECONDS_OBSTACLE
    )
    kept = recalls[chosen["name"]] / recalls["torch"] if recalls else 1.0
    paired_timing.print_verdict(f"recall@1 of the chosen runtime / of torch, {here}", kept, at_least=1.0)
    faster = speeds[chosen["name"]][1] / speeds["torch"][1]
    paired_timing.print_verdict(
        f"images/s of the chosen runtime / of torch, in eights, {here}", faster, at_least=1.0, obstacle=SPEED_OBSTACLE
    )


if __name__ == "__main__":
    typer.run(main)
