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

import imagehash
import joblib
import numpy as np
import pandas as pd
from filelock import FileLock
from PIL import Image
from rich.progress import track

from whale_ray.data.catalog import Catalog
from whale_ray.data.formats.animal_rows import BOX, DETAILS, shared_photographs
from whale_ray.data.image_io import VERSION, Geometry, crop_to_box, decode_image, fit_image, read_file
from whale_ray.errors import DataError, ImageDecodeError, ImageError, ImageTooLargeError, ImageTypeError

_THUMBNAIL_SIDE = 16
_TEXTS = ("image", "status", "reason", "sha256", "phash", "remark")
_STATUS = {ImageTypeError: "wrong_type", ImageTooLargeError: "too_large", ImageDecodeError: "damaged"}
_EMPTY = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class DecodedImages:
    """The decoded images of a catalog, row by row.

    Attributes:
        array: Memory map, uint8, shape (N, H', W', 3); zero where an image is not ok.
        small: Each whole image in grey, uint8, shape (N, 16, 16), independent of the geometry; in a
            photograph with several rows, the box of the row.
        geometry: Geometry of `array`.
        health: Columns image, status (ok, missing, unreadable, empty, wrong_type, too_large, damaged, wrong_box),
            reason, width, height, sha256 of the file, phash (16 hex digits), remark (warnings of the decoder).
        decoded: Number of images that this call decoded; 0 if the cache had them.
        fingerprint: Hash of the image files and the geometry.
    """

    array: np.ndarray
    small: np.ndarray
    geometry: Geometry
    health: pd.DataFrame
    decoded: int
    fingerprint: str


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
        DataError: If the disk is full.
    """
    folder = cache / _fingerprint(catalog, geometry)
    decoded = 0
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not folder.is_dir():
                _build(catalog, geometry, folder, workers or joblib.cpu_count(), progress)
                decoded = len(catalog.table)
    return _read_decoded(folder, geometry, decoded)


def open_decoded(folder: Path, geometry: Geometry) -> DecodedImages | None:
    """Return decoded images by their cache folder, without looking at the image files; None if it does not exist.

    Args:
        folder: Folder below the cache, named after the fingerprint of the decoded images.
        geometry: Geometry of the decoded images.
    """
    return _read_decoded(folder, geometry, 0) if folder.is_dir() else None


def _read_decoded(folder: Path, geometry: Geometry, decoded: int) -> DecodedImages:
    health = pd.read_csv(folder / "health.csv", keep_default_na=False, dtype=dict.fromkeys(_TEXTS, str))
    small = np.load(folder / "small.npy", allow_pickle=False)
    array = np.load(folder / "pixels.npy", mmap_mode="r", allow_pickle=False)
    return DecodedImages(array, small, geometry, health, decoded, folder.name)


def cache_size(catalog: Catalog, geometry: Geometry, *, cache: Path) -> tuple[int, bool]:
    """Return the bytes that the decoded images take, and whether the cache already has them.

    Args:
        catalog: The photographs.
        geometry: Target size and fitting.
        cache: Cache folder of this machine.
    """
    size = len(catalog.table) * math.prod((*geometry.stored, 3))
    return size, (cache / _fingerprint(catalog, geometry)).is_dir()


def _fingerprint(catalog: Catalog, geometry: Geometry) -> str:
    digest = hashlib.sha256(json.dumps([VERSION, asdict(geometry), str(catalog.folder.resolve())]).encode())
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
        array = _new_array(draft / "pixels.npy", (len(catalog.table), *geometry.stored, 3))
        small = np.zeros((len(catalog.table), _THUMBNAIL_SIDE, _THUMBNAIL_SIDE), np.uint8)
        shared = shared_photographs(catalog.table).to_numpy()
        with ThreadPoolExecutor(workers) as pool:
            rows = pool.map(
                lambda row: _decode_row(catalog, geometry, array, small, row, is_shared=bool(shared[row])),
                range(len(catalog.table)),
            )
            health = list(
                track(rows, "decoding photographs", total=len(catalog.table), disable=not progress, transient=True)
            )
        array.flush()
        np.save(draft / "small.npy", small, allow_pickle=False)
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


def _decode_row(
    catalog: Catalog, geometry: Geometry, array: np.ndarray, small: np.ndarray, row: int, *, is_shared: bool
) -> dict[str, object]:
    """Decode one image into its row of both arrays and return its health.

    The perceptual hash of an animal in a shared photograph is that of its box, which tells it from the others.
    """
    name = str(catalog.table["image"].iat[row])
    box = catalog.box(name)
    health: dict[str, object] = {"image": name, "status": "ok", "reason": "", "width": 0, "height": 0}
    health |= {"sha256": "", "phash": "", "remark": ""}
    remarks: list[str] = []
    try:
        data = read_file(catalog.path(name), catalog.image_bytes)
        health["sha256"] = hashlib.sha256(data).hexdigest()
        image = decode_image(data, max_bytes=catalog.image_bytes, on_warning=remarks.append)
        health |= {"width": image.width, "height": image.height}
        health["remark"] = "; ".join(remarks)
        seen = crop_to_box(image, box) if is_shared else image
        health["phash"] = _perceptual_hash(seen)
        small[row] = seen.convert("L").resize(
            (_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), Image.Resampling.BOX, reducing_gap=2.0
        )
        array[row] = fit_image(image, geometry, box=box)
    except FileNotFoundError:
        health |= {"status": "missing", "reason": "there is no such file"}
    except OSError as error:
        health |= {"status": "unreadable", "reason": str(error.strerror or error)}
    except DataError as error:
        health |= {"status": "wrong_box", "reason": str(error)}
    except ImageError as error:
        health |= {"status": _STATUS[type(error)] if health["sha256"] != _EMPTY else "empty", "reason": str(error)}
    return health


def _perceptual_hash(image: Image.Image) -> str:
    return str(imagehash.phash(image.resize((64, 64), Image.Resampling.BILINEAR, reducing_gap=2.0)))


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
