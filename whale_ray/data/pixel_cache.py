"""Pixel cache: every image is decoded once per geometry into a memory map that all trials share.

Nothing in the cache is unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock

from whale_ray.data.caches.cache_limit import make_room, mark_used
from whale_ray.data.catalog import Catalog
from whale_ray.data.decoding.decode_photograph import RowArrays, decode_photograph
from whale_ray.data.decoding.reduced_versions import SMALL_SIDE
from whale_ray.data.decoding.thumbnails import StoredThumbnails, read_thumbnails, write_thumbnails
from whale_ray.data.formats.animal_rows import BOX, DETAILS
from whale_ray.data.image_io import VERSION, Geometry
from whale_ray.data.near_duplicates import GREY_SIDE
from whale_ray.device import available_cpus
from whale_ray.errors import DataError
from whale_ray.file_errors import real_path
from whale_ray.verbosity import track_steps

_TEXTS = ("image", "status", "reason", "sha256", "phash", "taken", "remark")


@dataclass(frozen=True)
class DecodedImages:
    """The decoded images of a catalog, row by row.

    Attributes:
        array: Memory map, uint8, shape (N, H', W', 3); zero where an image is not ok.
        small: Each whole image in grey, uint8, shape (N, 16, 16), independent of the geometry; in a
            photograph with several rows, the box of the row.
        grey: The same in grey with its aspect ratio, memory map, uint8, shape (N, 64, 64): see `grey_image`.
        grey_sizes: Height and width of each image in `grey`, uint8, shape (N, 2); 0 where it cannot be read.
        geometry: Geometry of `array`.
        health: Columns image, status (ok, missing, unreadable, empty, wrong_type, too_large, damaged, wrong_box),
            reason, width, height, sha256 of the file, phash (16 hex digits), taken (EXIF date, ISO 8601 text), remark
            (warnings of the decoder).
        decoded: Number of images that this call decoded; 0 if the cache had them.
        fingerprint: Hash of the image files and the geometry.
        thumbnails: Small JPEGs of the boxes or whole images; None in a cache of an earlier version.
    """

    array: np.ndarray
    small: np.ndarray
    grey: np.ndarray
    grey_sizes: np.ndarray
    geometry: Geometry
    health: pd.DataFrame
    decoded: int
    fingerprint: str
    thumbnails: StoredThumbnails | None = None

    def grey_image(self, row: int) -> np.ndarray:
        """Return a whole image in grey, uint8, its longer side 64 pixels; empty if it cannot be read."""
        height, width = self.grey_sizes[row].tolist()
        return np.asarray(self.grey[row, :height, :width])


def decode_images(
    catalog: Catalog, geometry: Geometry, *, cache: Path, workers: int = 0, progress: bool = False
) -> DecodedImages:
    """Return the decoded images of a catalog, from the cache or decoded into it.

    Each fingerprint has its own cache folder, which appears complete or not at all. If several processes need the same
    one, one of them builds it.

    Args:
        catalog: The photographs.
        geometry: Target size and fitting.
        cache: Cache folder of this machine.
        workers: Decoding threads; 0 for one per core.
        progress: Show a progress bar.

    Raises:
        DataError: If the disk is full, WHALE_RAY_CACHE_GB is too small, or the cache folder cannot be written to.
    """
    folder = cache / _pixel_fingerprint(catalog, geometry)
    decoded = 0
    if not os.path.isdir(folder):  # False where permission is missing
        _require_writable(cache)
        with FileLock(folder.with_suffix(".lock")):
            if not folder.is_dir():
                make_room(cache, _stored_bytes(catalog, geometry))
                _build(catalog, geometry, folder, workers or available_cpus(), progress)
                decoded = len(catalog.table)
    return _read_decoded(folder, geometry, decoded)


def _require_writable(cache: Path) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except OSError as error:
        raise DataError(
            f"decoded photographs are kept in a folder that can be written to, but {cache}: {error.strerror}. "
            "Change its permissions, or name another folder in WHALE_RAY_CACHE"
        ) from None


def open_decoded(folder: Path, geometry: Geometry) -> DecodedImages | None:
    """Return decoded images by their cache folder, without looking at the image files; None if it does not exist.

    Args:
        folder: Folder below the cache, named after the fingerprint of the decoded images.
        geometry: Geometry of the decoded images.
    """
    return _read_decoded(folder, geometry, 0) if folder.is_dir() else None


def find_decoded(catalog: Catalog, geometry: Geometry, *, cache: Path) -> DecodedImages | None:
    """Return the decoded images of a catalog if the cache has them; None if they would have to be decoded.

    Args:
        catalog: The photographs.
        geometry: Geometry of the decoded images.
        cache: Cache folder of this machine.
    """
    return open_decoded(cache / _pixel_fingerprint(catalog, geometry), geometry)


def _read_decoded(folder: Path, geometry: Geometry, decoded: int) -> DecodedImages:
    mark_used(folder)
    health = pd.read_csv(folder / "health.csv", keep_default_na=False, dtype=dict.fromkeys(_TEXTS, str))
    small = np.load(folder / "small.npy", allow_pickle=False)
    grey_sizes = np.load(folder / "grey_sizes.npy", allow_pickle=False)
    array, grey = (np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ("pixels", "grey"))
    return DecodedImages(
        array, small, grey, grey_sizes, geometry, health, decoded, folder.name, read_thumbnails(folder)
    )


def cache_size(catalog: Catalog, geometry: Geometry, *, cache: Path) -> tuple[int, bool]:
    """Return the bytes that the decoded images take, and whether the cache already has them.

    Args:
        catalog: The photographs.
        geometry: Target size and fitting.
        cache: Cache folder of this machine.
    """
    return _stored_bytes(catalog, geometry), (cache / _pixel_fingerprint(catalog, geometry)).is_dir()


def _stored_bytes(catalog: Catalog, geometry: Geometry) -> int:
    return len(catalog.table) * math.prod((*geometry.stored, 3))


def _pixel_fingerprint(catalog: Catalog, geometry: Geometry) -> str:
    return fingerprint_files(catalog, VERSION, asdict(geometry))


def fingerprint_files(catalog: Catalog, *facts: object) -> str:
    """Return 16 hex digits that identify the image files, by size and time, their boxes and further facts.

    Args:
        catalog: The photographs.
        facts: What else decides the content of a cache, as JSON.
    """
    digest = hashlib.sha256(json.dumps([*facts, str(real_path(catalog.folder))]).encode())
    for image in catalog.table["image"]:
        path = catalog.path(image)
        with contextlib.suppress(OSError):
            facts = path.stat()
            usable = os.access(path, os.R_OK) and facts.st_size <= catalog.image_bytes
            digest.update(f"{facts.st_size} {facts.st_mtime_ns} {usable} ".encode())
        digest.update(image.encode() + b"\0")
    if catalog.has_boxes:
        digest.update(catalog.table[list(BOX)].to_csv().encode())
    return digest.hexdigest()[:16]


def _build(catalog: Catalog, geometry: Geometry, folder: Path, workers: int, progress: bool) -> None:
    for left_by_a_kill in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(left_by_a_kill, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        count = len(catalog.table)
        arrays = RowArrays(
            _new_array(draft / "pixels.npy", (count, *geometry.stored, 3)),
            np.zeros((count, SMALL_SIDE, SMALL_SIDE), np.uint8),
            _new_array(draft / "grey.npy", (count, GREY_SIDE, GREY_SIDE)),
            np.zeros((count, 2), np.uint8),
            [b""] * count,
        )
        groups = [rows.index.tolist() for _, rows in catalog.table.groupby("file", sort=False)]
        health: list[dict[str, object]] = [{}] * count
        with ThreadPoolExecutor(workers) as pool:
            decoded = pool.map(lambda rows: decode_photograph(catalog, geometry, arrays, rows), groups)
            for found in track_steps(decoded, "decoding photographs", progress=progress, total=len(groups)):
                for row, facts in found.items():
                    health[row] = facts
        np.save(draft / "small.npy", arrays.small, allow_pickle=False)
        write_thumbnails(draft, arrays.thumbnails)
        np.save(draft / "grey_sizes.npy", arrays.grey_sizes, allow_pickle=False)
        pd.DataFrame(health).to_csv(draft / "health.csv", index=False)
        os.sync()
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _new_array(path: Path, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[np.uint8]]:
    """Create a zero-filled array file with its disk space allocated: a full disk would kill a writer later."""
    try:
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
        with path.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
    except OSError as error:
        raise DataError(
            f"the decoded photographs need {math.prod(shape) / 2**30:.1f} GiB in {path.parent.parent}, but: "
            f"{error.strerror}. Make room, or name another folder in WHALE_RAY_CACHE"
        ) from error
    return array


def data_fingerprint(catalog: Catalog, pixels: DecodedImages) -> str:
    """Return 16 hex digits that identify image contents, labels, groups and boxes, and dates, views and species if any.

    Args:
        catalog: The photographs.
        pixels: Their decoded images, which know the hash of every file.
    """
    # Columns without content do not count: data sets of earlier versions keep their fingerprint.
    details = [name for name in DETAILS if (catalog.table[name] != "").any()]
    columns = ["image", "individual", "group", *(BOX if catalog.has_boxes else ()), *details]
    table = catalog.table[columns].assign(sha256=pixels.health["sha256"]).sort_values("image")
    return hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()[:16]
