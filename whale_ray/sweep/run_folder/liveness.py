"""What keeps a sweep safe while nobody looks: signs of life of its trials, room on its disk.

Knows files and clocks; who is ended or kept waiting for it is decided elsewhere.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from whale_ray.atomic_files import write_atomically

ALIVE = "alive"
# In the folder of a trial that is tried again with a GPU of its own.
ALONE = "alone"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class Clock:
    """The hours that all sittings of a sweep have taken, kept in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = float(json.loads(path.read_text())["seconds"]) if path.exists() else 0.0
        self._since = self._ticked = time.monotonic()

    def hours(self) -> float:
        """Hours of the sittings before, and of this one."""
        return (self._before + time.monotonic() - self._since) / 3600

    def tick(self) -> None:
        """Writes the hours down, now and then; what a kill takes from them is less than a minute."""
        if time.monotonic() - self._ticked >= 30 or not self._path.exists():
            self._ticked = time.monotonic()
            write_atomically(self._path, json.dumps({"seconds": 3600 * self.hours()}))


class Pulse:
    """A trial's sign of life: the file `alive` in its folder, which says where it runs and is touched as it works.

    It is locked while the trial runs: where a worker has outlived its driver, the next one waits until it has gone.
    """

    def __init__(self, folder: Path, *, node: str) -> None:
        self._path = folder / ALIVE
        self._descriptor = _lock(self._path)
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps({"pid": os.getpid(), "node": node}).encode(), 0)
        self._last = time.monotonic()

    def __enter__(self) -> Pulse:
        return self

    def __exit__(self, *_: object) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def beat(self) -> None:
        """Says that the trial works; may be called as often as one likes."""
        if time.monotonic() - self._last >= 1.0:
            os.utime(self._descriptor)
            self._last = time.monotonic()


def _lock(path: Path) -> int:
    """A descriptor of the file, made if need be, that holds its lock."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
        os.close(descriptor)  # who held it has ended, and taken the file away


class Stalls:
    """Tells which trials have given no sign of life for a time, by this process's own clock.

    The files' clock may be another machine's: only that it moves is looked at.
    """

    def __init__(self, minutes: float | None) -> None:
        self._limit = float("inf") if minutes is None else 60.0 * minutes
        self._seen: dict[str, tuple[int, float]] = {}

    def find(self, folders: Mapping[str, Path]) -> Iterable[str]:
        """The trials, of those that run in `folders`, whose sign of life has not changed for too long."""
        self._seen = {trial: seen for trial, seen in self._seen.items() if trial in folders}
        now = time.monotonic()
        for trial, folder in folders.items():
            beat = _changed(folder / ALIVE)
            if beat is not None and self._seen.get(trial, (0, 0.0))[0] != beat:
                self._seen[trial] = (beat, now)
            elif trial in self._seen and now - self._seen[trial][1] > self._limit:
                del self._seen[trial]
                yield trial


def _changed(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def where_it_runs(folder: Path) -> dict[str, Any] | None:
    """The process (`pid`) and Ray node (`node`) of the trial; None where it has not begun or has ended."""
    try:
        return dict(json.loads((folder / ALIVE).read_text()))
    except (FileNotFoundError, ValueError):
        return None


def free_gigabytes(folder: Path) -> float:
    """The room that is left on the disk of `folder`, in GB (10⁹ bytes)."""
    return shutil.disk_usage(folder).free / 1e9


def is_no_room(error: BaseException) -> bool:
    """Whether an error, or what it came from, says that the disk is full, over its quota or not writable.

    Libraries that write tensors pass on the system's words alone.
    """
    cause = error.__cause__ or error.__context__
    own = isinstance(error, OSError) and error.errno in _NO_ROOM
    return own or os.strerror(errno.ENOSPC) in str(error) or (cause is not None and is_no_room(cause))
