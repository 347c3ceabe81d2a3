"""Free space of the disk that holds a run folder: its limit, and the errors of a full disk."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def free_gigabytes(folder: Path) -> float:
    """Return the free space on the disk of a folder, in GB (10⁹ bytes)."""
    return shutil.disk_usage(folder).free / 1e9


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error, or its cause, says that the disk is full, over quota or read-only.

    Libraries that write tensors pass on only the text of the system's error.
    """
    cause = error.__cause__ or error.__context__
    is_own = isinstance(error, OSError) and error.errno in _FULL
    return is_own or os.strerror(errno.ENOSPC) in str(error) or (cause is not None and is_disk_full(cause))


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
