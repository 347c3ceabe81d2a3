"""Atomic file writes: a file appears complete or not at all, whenever a process is killed."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def write_atomically(path: Path, data: bytes | str) -> None:
    """Replace a file in one step: readers find the old content or the new, also after a power failure.

    Args:
        path: The file.
        data: Its new content.
    """
    with replaced_atomically(path) as draft:
        draft.write_bytes(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def replaced_atomically(path: Path) -> Iterator[Path]:
    """Yield a draft path; it replaces `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    except OSError as error:  # names the file that was asked for, not the draft
        raise OSError(error.errno, error.strerror, str(path)) from None
    os.close(handle)
    draft = path.with_name(Path(name).name)  # mkstemp returns an absolute path, `path` may be relative
    try:
        yield draft
        _flush(draft)
        draft.chmod(0o644)
        draft.replace(path)
        _flush(path.parent)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_symlink(link: Path, target: Path) -> None:
    """Make a relative symbolic link, replacing an older one in one step.

    Args:
        link: The link.
        target: What it points to.
    """
    draft = link.with_name(f".{link.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    draft.symlink_to(os.path.relpath(target, link.parent))
    draft.replace(link)
