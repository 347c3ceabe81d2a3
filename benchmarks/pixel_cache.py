"""Benchmark of the pixel cache: decoding on all cores against bare Pillow, and memory of trials that share the pixels.

The bare loop opens each JPEG and resizes it to the same size with the same filter, on one core. The cache also hashes
the file, computes its perceptual hash and writes thumbnails. The memory of trials is the part of the memory map that
the kernel counts for each process (`Pss`), summed over processes that have read every pixel.
"""

from __future__ import annotations

import paired_timing  # isort: skip  # sets one thread; must precede NumPy
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from PIL import Image

from whale_ray.data.catalog import Catalog, read_catalog
from whale_ray.data.image_io import Geometry
from whale_ray.data.pixel_cache import decode_images
from whale_ray.data.synthetic.dataset import draw_dataset
from whale_ray.device import available_cpus

GEOMETRY = Geometry(224, 224)
PHOTOGRAPH = (600, 1050)  # height and width in pixels of most photographs of the competition
TRIALS = 4
SPEED_GOAL, MEMORY_GOAL = 0.9, 1.1
SPEED_OBSTACLE = (
    "Each photograph is also hashed, by its bytes and by its look, and gets a thumbnail, two grey images and its date: "
    "2.5 ms beside 9.1 for decoding and fitting."
)
READER = """
import sys, numpy as np
pixels = np.load(sys.argv[1], mmap_mode="r")
print(int(pixels.sum()), flush=True)
sys.stdin.read()
"""


def bare_loop(catalog: Catalog) -> Callable[[], None]:
    """Return a function that decodes and resizes every photograph with Pillow alone, on one core."""
    paths = [catalog.path(image) for image in catalog.table["image"]]

    def decode() -> None:
        for path in paths:
            with Image.open(path) as image:
                size = (GEOMETRY.width, GEOMETRY.height)
                image.convert("RGB").resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)

    return decode


def shared_memory(pixels: Path, trials: int) -> int:
    """Return the bytes that the kernel counts for so many processes, each of which has read the whole memory map."""
    with ExitStack() as stack:
        command = [sys.executable, "-c", READER, str(pixels)]
        readers = [
            stack.enter_context(subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            for _ in range(trials)
        ]
        for reader in readers:
            assert reader.stdout
            reader.stdout.readline()
        total = sum(_proportional_size(reader.pid, pixels) for reader in readers)
        for reader in readers:
            assert reader.stdin
            reader.stdin.close()
    return total


def _proportional_size(pid: int, file: Path) -> int:
    """Return the bytes of a mapped file that count for a process."""
    mappings = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path(f"/proc/{pid}/smaps").read_text(), flags=re.MULTILINE)
    sizes = (re.search(r"^Pss: +(\d+) kB", one, flags=re.MULTILINE) for one in mappings if str(file) in one)
    return 1024 * sum(int(size[1]) for size in sizes if size)


def main(
    rounds: Annotated[int, typer.Option(help="Rounds, in alternation.", min=1)] = 5,
    photographs: Annotated[int, typer.Option(help="Photographs that are drawn.", min=30)] = 400,
) -> None:
    """Print photographs per second and core, and the memory of four trials; about two minutes, half of it drawing."""
    cores, number = available_cpus(), count()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "photographs"
        draw_dataset(root, individuals=10, images=photographs, difficulty=0.0, size=PHOTOGRAPH)
        catalog = read_catalog(root)

        def cached() -> None:
            decode_images(catalog, GEOMETRY, cache=Path(scratch) / f"cache_{next(number)}", workers=cores)

        pair = paired_timing.take_turns(cached, bare_loop(catalog), rounds=rounds)
        rates = len(catalog.table) / median(pair.first), len(catalog.table) / median(pair.second)
        (folder,) = (path for path in (Path(scratch) / "cache_0").iterdir() if path.is_dir())
        alone, together = (shared_memory(folder / "pixels.npy", trials) for trials in (1, TRIALS))
    rows = [
        [f"pixel cache, {cores} cores", f"{rates[0]:.0f}", f"{rates[0] / cores:.0f}"],
        ["Pillow, decode and resize", f"{rates[1]:.0f}", f"{rates[1]:.0f}"],
    ]
    paired_timing.print_table(["case", "photographs/s", "per core"], rows)
    per_core = 1.0 / (pair.ratio * cores)
    paired_timing.print_verdict(
        "photographs/s per core, pixel cache / Pillow", per_core, at_least=SPEED_GOAL, obstacle=SPEED_OBSTACLE
    )
    paired_timing.print_verdict(f"memory of the pixels, {TRIALS} trials / one", together / alone, at_most=MEMORY_GOAL)


if __name__ == "__main__":
    typer.run(main)
