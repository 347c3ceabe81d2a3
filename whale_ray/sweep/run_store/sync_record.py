"""Record of synchronized files: the version that each file of a mirror had here and in the store."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import NamedTuple

from whale_ray.atomic_files import write_atomically
from whale_ray.sweep.run_store.changed_folders import group_of

RECORD = ".published.json"
"""Name of the record in a run folder, or in the folder of a trial on a node."""


class SyncedVersions(NamedTuple):
    """Versions of a file when it was last uploaded or downloaded.

    Attributes:
        remote: Version of the object.
        local: Version of the local file.
    """

    remote: str
    local: str


class SyncRecord:
    """Versions of the synchronized files of a run folder, by key.

    The file gets a line for each `save`, so that a trial costs as much after thousands of them as at the beginning. A
    line is a JSON object of keys with their versions, or null for a file that is gone; later lines count. A line that a
    killed process has not completed is ignored: its files are synchronized again. Threads can share a record.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._groups: dict[str, dict[str, SyncedVersions]] = {}
        self._changes: dict[str, SyncedVersions | None] = {}
        lines = _read_lines(path)
        for key, versions in (item for line in lines for item in line.items()):
            self._put(key, versions)
        self._is_compact = len(lines) == 1

    def get(self, key: str) -> SyncedVersions | None:
        """Return the versions of a file; None if it is not synchronized."""
        return self._groups.get(group_of(key), {}).get(key)

    def put(self, key: str, versions: SyncedVersions | None) -> None:
        """Set the versions of a file; None if it is gone."""
        with self._lock:
            if versions != self.get(key):
                self._put(key, versions)
                self._changes[key] = versions

    def groups(self) -> list[str]:
        """Return the groups of the synchronized files."""
        with self._lock:
            return list(self._groups)

    def of_group(self, name: str) -> dict[str, SyncedVersions]:
        """Return the synchronized files of a group.

        Args:
            name: The group; "" for the files outside of groups.
        """
        with self._lock:
            return dict(self._groups.get(name, {}))

    def every(self) -> dict[str, SyncedVersions]:
        """Return all synchronized files."""
        with self._lock:
            return _joined(self._groups)

    def save(self) -> None:
        """Append the changes since the last call to the file; the first time, write what counts only."""
        with self._lock:
            if not self._changes:
                return
            if self._is_compact and self._path.exists():
                with self._path.open("a") as file:
                    file.write("\n" + json.dumps(self._changes))
            else:
                write_atomically(self._path, json.dumps(_joined(self._groups)))
                self._is_compact = True
            self._changes = {}

    def _put(self, key: str, versions: SyncedVersions | None) -> None:
        group = group_of(key)
        if versions is not None:
            self._groups.setdefault(group, {})[key] = versions
        elif files := self._groups.get(group):
            files.pop(key, None)
            if not files:
                del self._groups[group]


def _joined(groups: dict[str, dict[str, SyncedVersions]]) -> dict[str, SyncedVersions]:
    return {key: found for files in groups.values() for key, found in files.items()}


def _read_lines(path: Path) -> list[dict[str, SyncedVersions | None]]:
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return []
    return [found for line in lines if (found := _parsed(line)) is not None]


def _parsed(line: str) -> dict[str, SyncedVersions | None] | None:
    try:
        return {key: versions and SyncedVersions(*versions) for key, versions in json.loads(line).items()}
    except (ValueError, TypeError, AttributeError):  # not completed, or damaged
        return None
