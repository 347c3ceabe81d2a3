"""Heartbeats of running trials: written by the worker, read by the driver, which detects stalled trials."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
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
        on_beat: Called with process and node at the start and at each beat.

    Attributes:
        beat: Records that the trial is alive.
    """

    def __init__(
        self, folder: Path, *, node: str, on_beat: Callable[[dict[str, Any]], object] = lambda place: None
    ) -> None:
        self._path = folder / ALIVE
        self._lock = FileLock(self._path, thread_local=False)
        self._lock.acquire()
        place = {"pid": os.getpid(), "node": node}
        write_heartbeat(folder, place)
        self.beat = Beat(folder, on_beat=partial(on_beat, place))
        on_beat(place)

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
        on_beat: Called at each beat.
    """

    def __init__(self, folder: Path, *, on_beat: Callable[[], object] = lambda: None) -> None:
        self._path, self._on_beat = folder / ALIVE, on_beat
        self._last = time.monotonic()

    def __call__(self) -> None:
        """Record that the trial is alive."""
        if time.monotonic() - self._last >= 1.0:
            with contextlib.suppress(FileNotFoundError):  # `--fresh` has moved the run folder
                os.utime(self._path)
            self._on_beat()
            self._last = time.monotonic()


def write_heartbeat(folder: Path, place: Mapping[str, Any]) -> None:
    """Write the heartbeat of a trial.

    Args:
        folder: The trial's folder.
        place: Process (`pid`) and Ray node (`node`) of the trial.
    """
    (folder / ALIVE).write_text(json.dumps(dict(place)))


def drop_heartbeat(folder: Path) -> None:
    """Remove the heartbeat of a trial whose worker could not do so."""
    (folder / ALIVE).unlink(missing_ok=True)


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
