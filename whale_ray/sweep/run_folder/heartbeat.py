"""Heartbeats of running trials: written by the worker, read by the driver, which detects stalled trials."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

ALIVE = "alive"


class Heartbeat:
    """Heartbeat of a trial: the file `alive` in its folder names process and node; its time of change is the beat.

    The file is locked while the trial runs. If a worker has outlived its driver, the next worker of the trial waits
    until it has ended.

    Args:
        folder: The trial's folder.
        node: ID of the Ray node.

    Attributes:
        beat: Records that the trial is alive.
    """

    def __init__(self, folder: Path, *, node: str) -> None:
        self._path = folder / ALIVE
        self._lock = FileLock(self._path, thread_local=False)
        self._lock.acquire()
        self._path.write_text(json.dumps({"pid": os.getpid(), "node": node}))
        self.beat = Beat(folder)

    def __enter__(self) -> Heartbeat:
        return self

    def __exit__(self, *_: object) -> None:
        self._path.unlink(missing_ok=True)
        self._lock.release()


class Beat:
    """Callable that records that a trial is alive, at most once a second.

    The process that trains calls it; another one may hold the trial's `Heartbeat`.

    Args:
        folder: The trial's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / ALIVE
        self._last = time.monotonic()

    def __call__(self) -> None:
        """Record that the trial is alive."""
        if time.monotonic() - self._last >= 1.0:
            with contextlib.suppress(FileNotFoundError):  # `--fresh` has moved the run folder
                os.utime(self._path)
            self._last = time.monotonic()


def read_heartbeat(folder: Path) -> dict[str, Any] | None:
    """Return the process (`pid`) and the Ray node (`node`) of a running trial; None if it does not run."""
    try:
        return dict(json.loads((folder / ALIVE).read_text()))
    except (FileNotFoundError, ValueError):
        return None


class StallDetector:
    """Finds trials whose heartbeat has not changed for some minutes by the clock of this process.

    The clock of the machine that writes the file may differ, so only a change of its time counts.

    Args:
        minutes: Longest time without a heartbeat; None for no limit.
    """

    def __init__(self, minutes: float | None) -> None:
        self._limit = float("inf") if minutes is None else 60.0 * minutes
        self._last: dict[str, tuple[int, float]] = {}

    def find_stalled(self, folders: Mapping[str, Path]) -> Iterable[str]:
        """Yield the running trials that have stalled.

        Args:
            folders: Folder of each running trial.
        """
        self._last = {trial: last for trial, last in self._last.items() if trial in folders}
        now = time.monotonic()
        for trial, folder in folders.items():
            beat = _change_time(folder / ALIVE)
            if beat is not None and self._last.get(trial, (0, 0.0))[0] != beat:
                self._last[trial] = (beat, now)
            elif trial in self._last and now - self._last[trial][1] > self._limit:
                del self._last[trial]
                yield trial


def _change_time(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None
