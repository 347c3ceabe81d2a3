"""Benchmark of the pixel cache: photographs that a second sweep on the same data decodes (goal 0), and both times.

Each sweep opens the data set as every sweep does before its first trial: the table, then decode_images. The two share
only the data and the cache on disk.
"""

from __future__ import annotations

import paired_timing  # isort: skip  # sets one thread; must precede NumPy
import tempfile
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from whale_ray.data.catalog import read_catalog
from whale_ray.data.image_io import Geometry
from whale_ray.data.pixel_cache import decode_images
from whale_ray.data.synthetic.dataset import draw_dataset
from whale_ray.sweep.planning.dataset import MARGIN

INDIVIDUALS = 60
GEOMETRIES = (Geometry(64, 64, margin=MARGIN), Geometry(224, 224, margin=MARGIN))


def open_photographs(root: Path, cache: Path, geometry: Geometry) -> tuple[int, float]:
    """Return the number of photographs that one sweep decodes and the seconds until all are ready."""
    counts: list[int] = []

    def opened() -> None:
        counts.append(decode_images(read_catalog(root), geometry, cache=cache, workers=paired_timing.THREADS).decoded)

    clock, _ = paired_timing.seconds(opened)
    return counts[0], clock


def main(
    rounds: Annotated[int, typer.Option(help="Rounds, each with a new cache.", min=1)] = 5,
    images: Annotated[int, typer.Option(help="Photographs that are drawn.", min=200)] = 700,
) -> None:
    """Print the photographs that the second of two sweeps decodes; about a minute, most of it for drawing the data."""
    rows, again = [], 0
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "synthetic"
        draw_dataset(root, individuals=INDIVIDUALS, images=images, difficulty=0.4)
        for geometry in GEOMETRIES:
            caches = [Path(scratch) / f"cache_{geometry.height}_{number}" for number in range(rounds)]
            # alternate: first and second sweep on one cache, then on the next
            taken = [[open_photographs(root, cache, geometry) for _ in range(2)] for cache in caches]
            again += sum(second for _, (second, _) in taken)
            for sweep, each in zip(("first", "second"), zip(*taken, strict=True), strict=True):
                counts, clocks = zip(*each, strict=True)
                name = f"{geometry.height} px, {sweep} sweep"
                rows.append([name, str(images), str(max(counts)), f"{median(clocks):.3f}"])
    paired_timing.print_table(["case", "photographs", "decoded", "seconds"], rows)
    paired_timing.print_verdict(
        "photographs decoded again / photographs", again / (images * rounds * len(GEOMETRIES)), at_most=0
    )


if __name__ == "__main__":
    typer.run(main)
