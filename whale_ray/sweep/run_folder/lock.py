"""Lock of a run folder: one driver at a time writes to it, and nothing is overwritten."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from whale_ray.errors import InputError


@contextlib.contextmanager
def claimed(folder: Path, *, fresh: bool = False) -> Iterator[Path]:
    """Create the run folder if needed, lock it until the block ends, and yield it.

    The lock is released when the driver's process ends, even if it is killed.

    Args:
        folder: The run folder.
        fresh: Move an existing run to `<name>.<time>` first.

    Raises:
        InputError: If another driver holds the lock, or the folder is not writable or holds something else.
    """
    with contextlib.ExitStack() as held:
        try:
            if fresh:
                _move_aside(folder)
            _refuse_foreign(folder)
            held.enter_context(_locked(folder))
            (folder / "trials").mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(
                f"the run folder {folder} must be writable, but: {error}. Choose another with --runs"
            ) from error
        yield folder


def name_aside(folder: Path) -> Path:
    """Return the path NAME.TIME beside a folder, for an old run; there is nothing yet."""
    while (aside := folder.with_name(f"{folder.name}.{time.strftime('%Y%m%d-%H%M%S')}")).exists():
        time.sleep(0.1)
    return aside


def _refuse_foreign(folder: Path) -> None:
    """Raise InputError if the folder holds something other than a run."""
    inside = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if inside and not {"lock", "sweep.yaml"} & set(inside):
        raise InputError(
            f"the run folder {folder} must be a sweep's own, but holds something else ({', '.join(inside[:3])}). "
            "Give the sweep another name, or choose another folder with --runs"
        )


def _move_aside(folder: Path) -> None:
    with _locked(folder):
        if not (folder / "sweep.yaml").exists():
            return
        folder.rename(name_aside(folder))


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock"
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        holder = path.read_text(errors="replace").strip() or "unknown"
        raise InputError(
            f"one driver at a time may write to {folder}, but process {holder} does. Wait for it or stop it"
        ) from None
    try:
        path.write_text(f"{os.getpid()}\n")
        yield
    finally:
        lock.release()
