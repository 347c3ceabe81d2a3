"""Lock between processes whose holder is awaited with signs of life."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_WAIT = 0.5


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
