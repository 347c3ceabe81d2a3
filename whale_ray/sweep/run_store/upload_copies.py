"""Copies of files that are uploaded in place of the files themselves, and removed after that."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path


@contextmanager
def content_copy(path: Path, content: bytes) -> Iterator[Path]:
    """Yield a file with other content than a file of a run folder, which is uploaded in its place.

    Args:
        path: The file; the copy is beside it, under a name that is not uploaded by itself.
        content: The content.
    """
    copy = path.with_name(f".{path.name}.published")
    copy.write_bytes(content)
    try:
        yield copy
    finally:
        copy.unlink(missing_ok=True)


@contextmanager
def database_copy(path: Path) -> Iterator[Path]:
    """Yield a consistent copy of an SQLite database that another connection may be writing to.

    Raises:
        OSError: If it cannot be copied now; the publisher tries again.
    """
    with content_copy(path, b"") as copy:
        try:
            with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
                source.backup(target)
        except sqlite3.Error as error:
            raise OSError(f"{path} cannot be copied: {error}") from error
        yield copy
