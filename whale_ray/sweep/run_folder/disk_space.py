"""Free space of the disk that holds a run folder, and the errors of a full disk."""

from __future__ import annotations

import errno
import os
import shutil
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
