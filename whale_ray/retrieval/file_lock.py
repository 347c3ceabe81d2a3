"""Files that one of several processes computes: a lock whose holder is awaited with signs of life, and a cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from whale_ray.errors import DataError

_WAIT = 0.5
_Value = TypeVar("_Value")


@contextmanager
def lock_file(path: Path, *, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock for the length of a block; it ends with the process.

    Args:
        path: The lock file; it stays.
        on_wait: Called twice per second while another process holds the lock.
    """
    lock = FileLock(path)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=_WAIT)
        except Timeout:
            on_wait()
    try:
        yield
    finally:
        lock.release()


def read_or_compute(
    path: Path,
    *,
    read: Callable[[Path], _Value | None],
    compute: Callable[[], _Value],
    write: Callable[[_Value, Path], None],
    what: str,
    on_wait: Callable[[], None],
) -> _Value:
    """Return what a cache file holds; if it holds nothing, one of the processes that need it computes and writes it.

    Args:
        path: The cache file.
        read: Returns its value; None if there is no file, or it is damaged.
        compute: Returns the value.
        write: Writes the value to the file in one step.
        what: Start of the message: the values, with `is` or `are`.
        on_wait: As in `lock_file`.

    Raises:
        DataError: If the file cannot be written.
    """
    if (found := read(path)) is not None:
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock_file(path.with_suffix(".lock"), on_wait=on_wait):
            if (found := read(path)) is not None:
                return found
            value = compute()
            write(value, path)
            return value
    except OSError as error:
        raise DataError(
            f"{what} kept in a folder that can be written to, but {path.parent}: {error.strerror}. "
            "Change its permissions, make room, or name another folder in WHALE_RAY_CACHE"
        ) from error
