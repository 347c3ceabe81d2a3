"""Changed folders: the files of a run folder, read again only where a folder has changed since it was synchronized."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

LINK = "best"
"""Name of the link in the run folder that is synchronized as an object with its target."""
_LOCAL_ONLY = ("lock", "alive")  # files that only processes on the same disk use
_OF_DATABASES = ("-journal", "-wal", "-shm")
_LAST_FILE = "result.json"  # the files of a trial with a result are replaced, never written in place
_MIN_AGE_NS = 2_000_000_000  # a file system may give two changes within such a time the same timestamp


def group_of(key: str) -> str:
    """Return the group of a file: its folder two levels below the run folder, or "".

    >>> group_of("trials/1/checkpoint/encoder.safetensors"), group_of("study.db")
    ('trials/1', '')
    """
    parts = key.split("/", 2)
    return f"{parts[0]}/{parts[1]}" if len(parts) > 2 else ""


def version_of(path: Path) -> str | None:
    """Return the version of a local file (size and time of change, or the target of a link); None without one."""
    try:
        return os.readlink(path) if path.is_symlink() else _version(path.stat())
    except FileNotFoundError:
        return None


@dataclass
class Group:
    """Files of a group.

    Attributes:
        name: The group.
        read_ns: Time before the first folder was read, in nanoseconds.
        files: Key → version of the file.
        folders: Path → time of change of each folder, read before the files in it, in nanoseconds.
    """

    name: str
    read_ns: int = field(default_factory=time.time_ns)
    files: dict[str, str] = field(default_factory=dict)
    folders: dict[str, int] = field(default_factory=dict)


class ChangedFolders:
    """Finds the files of a run folder group by group, without those of settled groups that have not changed.

    Names that begin with a dot, files of one disk only and linked folders are left out.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._settled: dict[str, dict[str, int]] = {}

    def groups(self, name: str = "", *, known: Iterable[str] = (), thorough: bool = False) -> Iterator[Group]:
        """Yield the groups with their files.

        Args:
            name: The only group to read, in any case; "" for all.
            known: Groups to yield also if their folder does not exist; they have no files then.
            thorough: Also read the settled groups that have not changed.
        """
        if name:
            yield _read_group(self._folder, name)
            return
        top = Group("")
        names = dict.fromkeys([*_read_top(self._folder, top), *filter(None, known)])
        yield top
        for below in names:
            if thorough or not self._is_settled(below):
                self._settled.pop(below, None)
                yield _read_group(self._folder, below)

    def settle(self, group: Group) -> None:
        """Leave out the group until one of its folders changes.

        Only files that are replaced change the time of their folder, so that a trial has to have its result, and a
        change within the resolution of the time could remain unseen, so that it has to be some seconds old.
        """
        is_old = all(group.read_ns - changed > _MIN_AGE_NS for changed in group.folders.values())
        if is_old and f"{group.name}/{_LAST_FILE}" in group.files:
            self._settled[group.name] = group.folders

    def _is_settled(self, name: str) -> bool:
        try:
            return all(os.stat(path).st_mtime_ns == changed for path, changed in self._settled[name].items())
        except (KeyError, FileNotFoundError):
            return False


def _read_top(run: Path, top: Group) -> Iterator[str]:
    """Add the files of the run folder and of the folders in it, and yield the folders below those."""
    names = list(_read_folder(run, "", top))
    for name in names:
        yield from _read_folder(run, name, top)
    if (target := version_of(run / LINK)) is not None:
        top.files[LINK] = target


def _read_group(run: Path, name: str) -> Group:
    group = Group(name)
    waiting = [name]
    while waiting:
        waiting += _read_folder(run, waiting.pop(), group)
    return group


def _read_folder(run: Path, below: str, group: Group) -> list[str]:
    """Add the files of a folder to a group, and return the folders in it."""
    folder, prefix = os.path.join(run, below), below and f"{below}/"
    with suppress(FileNotFoundError):  # deleted meanwhile
        group.folders[folder] = os.stat(folder).st_mtime_ns
        with os.scandir(folder) as entries:
            return [f"{prefix}{entry.name}" for entry in entries if not _add_file(entry, prefix, group)]
    return []


def _add_file(entry: os.DirEntry[str], prefix: str, group: Group) -> bool:
    """Add an entry to a group if it is a file to synchronize, and return whether it is no folder to read."""
    if entry.name.startswith("."):
        return True
    if entry.is_dir():
        return entry.is_symlink()
    if entry.name in _LOCAL_ONLY or entry.name.endswith(_OF_DATABASES):
        return True
    with suppress(FileNotFoundError):
        is_link = entry.is_symlink()
        group.files[f"{prefix}{entry.name}"] = os.readlink(entry.path) if is_link else _version(entry.stat())
    return True


def _version(found: os.stat_result) -> str:
    return f"{found.st_size}-{found.st_mtime_ns}"
