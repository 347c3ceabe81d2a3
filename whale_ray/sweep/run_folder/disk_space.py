"""Free space of the disk that holds a run folder, and its limit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path


def free_gigabytes(folder: Path) -> float:
    """Return the free space on the disk of a folder, in GB (10⁹ bytes)."""
    return shutil.disk_usage(folder).free / 1e9


class DiskSpaceGate:
    """Tells whether new trials must wait for free disk space, and announces each change.

    Args:
        folder: Run folder.
        minimum: Free space that must stay, in GB (10⁹ bytes).
        say: Prints a line for the user.
    """

    def __init__(self, folder: Path, *, minimum: float, say: Callable[[str], None]) -> None:
        self._folder, self._minimum, self._say = folder, minimum, say
        self._was_full = False

    def is_full(self) -> bool:
        """Return whether the free space is below the minimum."""
        free = free_gigabytes(self._folder)
        full = free < self._minimum
        if full != self._was_full:
            self._was_full = full
            rule = f"the disk of {self._folder} has {free:.1f} GB left, of resources.min_free_gb {self._minimum:g}"
            self._say(f"{rule}: no trial starts until space is free" if full else f"{rule}: going on")
        return full
