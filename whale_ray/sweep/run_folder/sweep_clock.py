"""Time that a sweep has run, over all its processes."""

from __future__ import annotations

import json
import time
from pathlib import Path

from whale_ray.atomic_files import write_atomically

_SAVE_SECONDS = 30


class SweepClock:
    """Hours that a sweep has run, over all its processes, kept in a file.

    Args:
        path: The file; it may not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = float(json.loads(path.read_text())["seconds"]) if path.exists() else 0.0
        self._since = self._saved = time.monotonic()

    def hours(self) -> float:
        """Return the hours of earlier processes and of this one."""
        return (self._before + time.monotonic() - self._since) / 3600

    def save_if_due(self) -> None:
        """Write the file every 30 seconds, so that a killed driver loses less than a minute."""
        if time.monotonic() - self._saved >= _SAVE_SECONDS or not self._path.exists():
            self._saved = time.monotonic()
            write_atomically(self._path, json.dumps({"seconds": 3600 * self.hours()}))
