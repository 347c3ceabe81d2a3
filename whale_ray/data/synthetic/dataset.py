"""Writes a synthetic data set in the layout of the Kaggle competition humpback-whale-identification.

The folder appears complete or not at all. `population` decides who is photographed; `fluke` and `scene` draw.
"""

from __future__ import annotations

import csv
import multiprocessing
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, repeat
from pathlib import Path

import numpy as np
from filelock import FileLock

from whale_ray.data.synthetic.drawing_record import write_record
from whale_ray.data.synthetic.fluke import Fluke, draw_fluke
from whale_ray.data.synthetic.photo_plan import UNKNOWN, Photo, plan_photos
from whale_ray.data.synthetic.scene import draw_day, draw_viewpoint, photograph, vary_viewpoint
from whale_ray.device import available_cpus
from whale_ray.errors import DataError
from whale_ray.file_errors import real_path
from whale_ray.verbosity import track_steps

_ANIMAL, _DAY, _ENCOUNTER, _PHOTO = range(1, 5)


@dataclass(frozen=True)
class _Appearance:
    """Settings that all photographs of a data set share."""

    seed: int
    difficulty: float
    size: tuple[int, int]

    def rng(self, *stream: int) -> np.random.Generator:
        """Return the random generator of one animal, day, encounter or photograph."""
        return np.random.default_rng([self.seed, *stream])


def draw_dataset(
    root: Path,
    *,
    individuals: int,
    images: int,
    difficulty: float = 0.5,
    seed: int = 0,
    size: tuple[int, int] = (128, 256),
    workers: int = 0,
    progress: bool = False,
) -> None:
    """Draw humpback flukes into a folder in the Kaggle layout.

    Writes train.csv (Image, Id, Encounter), train/*.jpg with `images` photographs of named and unknown animals,
    test/*.jpg with a fifth as many more, sample_submission.csv, test_labels.csv with the truth about test/, and
    drawn.txt with the arguments. The same arguments give the same bytes for any number of workers. The folder appears
    complete or not at all.

    Args:
        root: A folder that is empty or does not exist.
        individuals: Number of named individuals, at least 2.
        images: Number of training photographs, at least three per individual.
        difficulty: 0 (clear) to 1 (very hard).
        seed: Seed of all drawings.
        size: Height and width of the largest image in pixels. Harder data sets are cropped closer.
        workers: Processes; 0 for one per core. A script that calls this needs `if __name__ == "__main__"`.
        progress: Show the progress.

    Raises:
        DataError: If the folder is not empty or an argument is out of range.
    """
    _check(individuals=individuals, images=images, difficulty=difficulty, seed=seed, size=size, workers=workers)
    photos = plan_photos(individuals=individuals, images=images, seed=seed)
    with _whole_folder(root) as folder:
        _write_tables(folder, photos)
        write_record(folder, individuals=individuals, images=images, difficulty=difficulty, seed=seed)
        drawn = _draw_all(folder, photos, _Appearance(seed, difficulty, size), workers or available_cpus())
        for _ in track_steps(drawn, "drawing photographs", progress=progress, total=len(photos)):
            pass


def _check(*, individuals: int, images: int, difficulty: float, seed: int, size: tuple[int, int], workers: int) -> None:
    """Raise one DataError that names every argument out of range."""
    rules = {
        f"`individuals >= 2` must hold, but got {individuals}": individuals >= 2,
        f"`images >= 3 * individuals` must hold (unknown animals and second photographs), but got {images} images "
        f"of {individuals} individuals; draw at least {3 * individuals}": images >= 3 * individuals,
        f"`0 <= difficulty <= 1` must hold, but got {difficulty}": 0 <= difficulty <= 1,
        f"`seed >= 0` must hold, but got {seed}": seed >= 0,
        f"`size` is (height, width) from 32 to 2048 pixels, but got {size}": all(32 <= side <= 2048 for side in size),
        f"`workers >= 0` must hold (0: one a core), but got {workers}": workers >= 0,
    }
    faults = [rule for rule, kept in rules.items() if not kept]
    if faults:
        raise DataError("; ".join(faults))


@contextmanager
def _whole_folder(root: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `root` in one step; remains of a killed run are removed.

    A lock makes a second process wait until `root` is complete.
    """
    root = real_path(root)
    _refuse_occupied(root)
    partial, lock = (root.with_name(f".{root.name}.{kind}") for kind in ("partial", "lock"))
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        try:
            _refuse_occupied(root)
            shutil.rmtree(partial, ignore_errors=True)
            for part in ("train", "test"):
                (partial / part).mkdir(parents=True)
            yield partial
            partial.rename(root)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            lock.unlink(missing_ok=True)


def _refuse_occupied(root: Path) -> None:
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(
            f"A data set is drawn into a folder that is empty or does not exist, but {root} is neither; "
            "nothing was written. Name another folder, or remove this one first."
        )


def _write_tables(folder: Path, photos: list[Photo]) -> None:
    rows = {
        part: sorted((p.image, p.label, p.encounter) for p in photos if p.part == part) for part in ("train", "test")
    }
    for name, part in (("train.csv", "train"), ("test_labels.csv", "test")):
        named = [(image, label, f"e_{encounter:06d}") for image, label, encounter in rows[part]]
        _write_csv(folder / name, ("Image", "Id", "Encounter"), named)
    guess = " ".join([UNKNOWN, *sorted({photo.label for photo in photos} - {UNKNOWN})[:4]])
    _write_csv(folder / "sample_submission.csv", ("Image", "Id"), [(image, guess) for image, *_ in rows["test"]])


def _write_csv(path: Path, header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def _draw_all(folder: Path, photos: list[Photo], look: _Appearance, processes: int) -> Iterator[Photo]:
    """Yield each photograph when it is drawn."""
    chunks = [photos[start : start + 100] for start in range(0, len(photos), 100)]
    if min(processes, len(chunks)) == 1:
        for chunk in chunks:
            yield from _draw_chunk(folder, chunk, look)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_end_with_parent) as pool:
        for drawn in pool.map(_draw_chunk, repeat(folder), chunks, repeat(look)):
            yield from drawn


def _end_with_parent() -> None:
    """End this worker when its parent process is killed; it would otherwise wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _draw_chunk(folder: Path, photos: list[Photo], look: _Appearance) -> list[Photo]:
    """Draw photographs, the fluke of each animal once, and return them."""
    for animal, group in groupby(photos, key=lambda photo: photo.animal):
        fluke = draw_fluke(look.rng(_ANIMAL, animal), scale=max(24, round(0.8 * look.size[1])))
        for photo in group:
            _draw_photo(folder / photo.part / photo.image, photo, fluke, look)
    return photos


def _draw_photo(path: Path, photo: Photo, fluke: Fluke, look: _Appearance) -> None:
    rng, (height, width) = look.rng(_PHOTO, photo.number), look.size
    # Even a studio's animal moves a little: two photographs must not be the same picture.
    moved = 0.2 + 0.8 * look.difficulty**0.6
    view = vary_viewpoint(rng, draw_viewpoint(look.rng(_ENCOUNTER, photo.encounter), moved), moved)
    picture = photograph(
        rng,
        fluke,
        day=draw_day(look.rng(_DAY, photo.day), look.difficulty),
        view=view,
        size=(round(height * rng.uniform(1 - 0.25 * look.difficulty, 1)), width),
        difficulty=look.difficulty,
    )
    picture.save(path, "JPEG", quality=round(95 - 60 * look.difficulty * rng.random()))
