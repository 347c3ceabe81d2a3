"""Limit of the disk space that decoded photographs take: WHALE_RAY_CACHE_GB, the least recently used go first."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from whale_ray.errors import DataError

VARIABLE = "WHALE_RAY_CACHE_GB"


def cache_limit() -> float:
    """Return the limit in bytes; infinite without WHALE_RAY_CACHE_GB.

    Raises:
        DataError: If the variable is no positive number.
    """
    text = os.environ.get(VARIABLE, "").strip()
    try:
        limit = float(text or "inf")
    except ValueError:
        limit = 0.0
    if not limit > 0:
        raise DataError(f"{VARIABLE} is a number of GB above 0, but got {text}. Give a number such as 200")
    return limit * 1e9


def mark_used(folder: Path) -> None:
    """Record that decoded photographs are used now: the time of change of their folder."""
    with contextlib.suppress(OSError):  # a folder of another user
        os.utime(folder)


def make_room(cache: Path, needed: int) -> None:
    """Delete decoded photographs, the least recently used first, until `needed` more bytes fit into the limit.

    A process that has opened them keeps them open; the next one decodes them again.

    Args:
        cache: Folder that holds a folder for each geometry of a data set.
        needed: Bytes that are to be written.

    Raises:
        DataError: If the limit is smaller than `needed`.
    """
    if (limit := cache_limit()) == float("inf"):
        return
    if needed > limit:
        raise DataError(
            f"the decoded photographs need {needed / 1e9:.2f} GB, but {VARIABLE} allows {limit / 1e9:g} GB. Raise it, "
            "or choose a smaller data.image_size"
        )
    found = [path for path in cache.iterdir() if path.is_dir() and not path.name.startswith(".")]
    sizes = {path: _size(path) for path in sorted(found, key=lambda path: path.stat().st_mtime)}
    taken = sum(sizes.values())
    for path, size in sizes.items():
        if taken + needed <= limit:
            return
        shutil.rmtree(path, ignore_errors=True)
        taken -= size


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
