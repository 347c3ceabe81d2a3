"""Messages for errors of the file system that a user can mend, and the errors of a full disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# The remedy of each error that is no fault of the program.
_REMEDIES = {
    errno.EACCES: "Change its permissions, or name another place",
    errno.EPERM: "Change its permissions, or name another place",
    errno.EROFS: "Name a place on a disk that can be written to",
    errno.ENOENT: "Check the spelling, or create it",
    errno.ENOTDIR: "A part of the path is a file: name a folder",
    errno.EISDIR: "Name a file",
    errno.EEXIST: "Something else lies there: name another place, or remove it",
    errno.ENOTEMPTY: "Name an empty folder",
    errno.ELOOP: "Its symbolic links lead in a circle: remove one of them",
    errno.ENAMETOOLONG: "Shorten the name",
    errno.ENOSPC: "Free some space, or name a place on another disk",
    errno.EDQUOT: "Free some space, or name a place on another disk",
    errno.EINVAL: "The file system does not accept this name: name another",
    errno.ENODEV: "Name a place on a local disk",
    errno.EBUSY: "Another program uses it: end that program, or name another place",
    errno.ESTALE: "The network disk has lost it: mount the disk again",
    errno.EIO: "The disk does not answer as it should: check it",
}


def explain_file_error(error: OSError) -> str | None:
    """Return one message about a path that cannot be used; None if the error names no path or has no remedy."""
    remedy = _REMEDIES.get(error.errno or 0)
    if remedy is None or error.filename is None:
        return None
    paths = [os.fsdecode(path) for path in (error.filename, error.filename2) if isinstance(path, str | bytes)]
    if not paths:
        return None
    return f"{' and '.join(paths)} must be usable, but: {error.strerror}. {remedy}"


def is_inside(path: Path, folder: Path) -> bool:
    """Return whether a path lies in a folder after following symbolic links; links in a circle are not followed.

    Args:
        path: The path; it need not exist.
        folder: The folder.
    """
    return real_path(path).is_relative_to(real_path(folder))


def real_path(path: str | Path) -> Path:
    """Return an absolute path with symbolic links followed; links in a circle stay, for the opening to report.

    `Path.resolve` raises RuntimeError for a circle until Python 3.12, which is no error of the file system.

    Args:
        path: The path; it need not exist.
    """
    return Path(os.path.realpath(path))


def short_reason(error: Exception) -> str:
    """Return why a file cannot be used, without the number and path that the text of an OSError has."""
    return str(error.strerror or error) if isinstance(error, OSError) else str(error)


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error, or its cause, says that the disk is full, over quota or read-only.

    Libraries that write tensors pass on only the text of the system's error.
    """
    cause = error.__cause__ or error.__context__
    is_own = isinstance(error, OSError) and error.errno in _FULL
    return is_own or os.strerror(errno.ENOSPC) in str(error) or (cause is not None and is_disk_full(cause))
