"""Folder of Ray's files: a short one if TMPDIR is too long for the paths of its sockets, as on SLURM clusters."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import Final

from whale_ray.errors import InputError

VARIABLE: Final = "RAY_TMPDIR"
LONGEST: Final = 107 - len("/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1")
"""Bytes of a folder in which Ray's sockets, of at most 107 bytes, have room."""
LONGEST_LISTENER: Final = 107 - len("/pymp-01234567/listener-01234567")
"""Bytes of a temporary folder in which Python's multiprocessing, as of Ray's dashboard, has room for its sockets."""
SHORT_FOLDERS: Final = ("/tmp", "/var/tmp", "/dev/shm")


def shorten_ray_folder() -> Path | None:
    """Set RAY_TMPDIR to a short folder of this user if Ray's default folder is too long for its sockets.

    Ray's processes inherit the variable, and `auto` finds the cluster in this folder again. TMPDIR is set as well if it
    is too long for the sockets of Python's own processes.

    Returns:
        The short folder; None if the default stays.

    Raises:
        InputError: If no short folder can be used.
    """
    default = os.environ.get(VARIABLE) or os.environ.get("TMPDIR") or "/tmp"
    is_listener_long = len(os.fsencode(os.environ.get("TMPDIR", ""))) > LONGEST_LISTENER
    if len(os.fsencode(default)) <= LONGEST and not is_listener_long:
        return None
    for parent in SHORT_FOLDERS:
        if _is_private_folder(folder := Path(parent) / f"whale_ray_{os.getuid()}"):
            os.environ[VARIABLE] = str(folder)
            if is_listener_long:
                os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
            return folder
    raise InputError(
        f"Ray needs a folder of at most {LONGEST} bytes for its sockets, but {default} has "
        f"{len(os.fsencode(default))} and none of {', '.join(SHORT_FOLDERS)} can be used. "
        f"Set {VARIABLE} to a short folder"
    )


def _is_private_folder(folder: Path) -> bool:
    """Return whether this user alone can use the folder, which is made if it does not exist."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
