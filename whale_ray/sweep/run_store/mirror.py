"""Mirror of a run folder: a local folder that is downloaded from a run store and whose changes are uploaded."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Container, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from whale_ray.atomic_files import replace_symlink, write_atomically
from whale_ray.inference.bundle_transfer.object_store import ObjectStore

_RECORD = ".published.json"
_LOCAL_ONLY = ("lock", "alive")  # files that only processes on the same disk use
_FIRST = ("sweep.yaml", "identity.json")
_LAST = ("result.json", "bundle.json", "best")
_LINK = "best"
_WEIGHTS = "/checkpoint/encoder.safetensors"
_LEFT_OUT = ""  # local version of a file that is in the store only


class RunMirror:
    """A local run folder and its copy in a run store.

    A file is uploaded if it has changed since it was last uploaded or downloaded, and downloaded if its object has. If
    both have changed, the object is kept: another driver has run the sweep meanwhile. The link `best` is an object
    with its target. A trial's result, a bundle's manifest and `best` are uploaded after all other files. Names that
    begin with a dot are not uploaded. Weights of trials can be left out of a download; they are deleted in the store
    when their folder here is.

    Args:
        store: The run folder's store.
        folder: The local run folder.
        below: Folder below the run folder that keeps the record of what is synchronized.
    """

    def __init__(self, store: ObjectStore, folder: Path, *, below: str = "") -> None:
        self.store, self.folder = store, folder
        self._lock = threading.Lock()
        self._record = folder / below / _RECORD
        self._synced = _read_record(self._record)

    def pull(
        self,
        prefix: str = "",
        *,
        recursive: bool = True,
        beginning: str = "",
        weights: bool = True,
        on_start: Callable[[int, int], None] = lambda files, size: None,
    ) -> None:
        """Download the objects that this folder lacks or has in an older version.

        Args:
            prefix: Folder below the run folder to download; "" for all.
            recursive: Also download the folders below it.
            beginning: Beginning of the keys to download.
            weights: Also download the weights of trials.
            on_start: Called with the number of files and bytes before the download, if there are any.
        """
        found = self.store.list(prefix, recursive=recursive)
        if not prefix and recursive and not beginning:
            self._drop_missing(found)
        wanted = {
            key: version
            for key, version in found.items()
            if key.startswith(beginning) and not _is_hidden(key) and not self._has(key, version)
        }
        left_out = [] if weights else [key for key in wanted if key.endswith(_WEIGHTS)]
        for key in left_out:
            self._leave_out(key, wanted.pop(key))
        if wanted:
            on_start(len(wanted), sum(version.size for version in wanted.values()))
        with self._saved_record():
            for key in sorted(wanted, key=_order):
                self._download(key, wanted[key])

    def _leave_out(self, key: str, version: str) -> None:
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # of an earlier version
        with self._lock:
            self._synced[key] = (version, _LEFT_OUT)

    def _drop_missing(self, found: Container[str]) -> None:
        """Delete unchanged files whose objects another driver has deleted; an emptied store gets all files again."""
        for key in [key for key in self._synced if key not in found]:
            _, local = self._synced.pop(key)
            if _FIRST[0] in found and _local_version(self.folder / key) == local:
                (self.folder / key).unlink()

    def push(self, prefix: str = "") -> None:
        """Upload what has changed, and delete the objects of files that were deleted since they were synchronized.

        Args:
            prefix: Folder below the run folder to upload; "" for all.
        """
        with self._saved_record():
            for key in self._changed(prefix):
                self._upload(key)
            for key in self._deleted(prefix):
                self.store.delete(key)
                with self._lock:
                    self._synced.pop(key, None)

    def pending(self, prefix: str = "") -> list[str]:
        """Return the files that are not uploaded yet.

        Args:
            prefix: Folder below the run folder; "" for all.
        """
        return list(self._changed(prefix))

    def has_changed(self, prefix: str = "") -> bool:
        """Return whether `push` would upload or delete anything.

        Args:
            prefix: Folder below the run folder; "" for all.
        """
        return any(self._changed(prefix)) or bool(self._deleted(prefix))

    def has_left_out(self, prefix: str) -> bool:
        """Return whether the weights below a folder were left out of a download and are in the store.

        Args:
            prefix: Folder below the run folder.
        """
        return any(local == _LEFT_OUT for key, (_, local) in list(self._synced.items()) if key.startswith(prefix))

    def _has(self, key: str, version: str) -> bool:
        path = self.folder / key
        return self._synced.get(key, ("",))[0] == version and (path.exists() or path.is_symlink())

    def _changed(self, prefix: str) -> Iterator[str]:
        for key in sorted(_files(self.folder, prefix), key=_order):
            version = _local_version(self.folder / key)
            if version is not None and self._synced.get(key, ("", ""))[1] != version:
                yield key

    def _deleted(self, prefix: str) -> list[str]:
        with self._lock:
            keys = [(key, local) for key, (_, local) in self._synced.items() if key.startswith(prefix)]
        return [key for key, local in keys if self._is_deleted(self.folder / key, local)]

    @staticmethod
    def _is_deleted(path: Path, synced: str) -> bool:
        return not path.parent.is_dir() if synced == _LEFT_OUT else _local_version(path) is None

    def _download(self, key: str, version: str) -> None:
        path = self.folder / key
        if key == _LINK:
            replace_symlink(path, self.folder / self.store.read(key).decode().strip())
        else:
            self.store.download(key, path)
        with self._lock:
            self._synced[key] = (version, _local_version(path) or "gone")

    def _upload(self, key: str) -> None:
        path = self.folder / key
        version = _local_version(path)
        try:
            if key == _LINK:
                with _copied(path, os.readlink(path).encode()) as copy:
                    published = self.store.upload(copy, key)
            elif path.suffix == ".db":
                with _database_copy(path) as copy:
                    published = self.store.upload(copy, key)
            else:
                published = self.store.upload(path, key)
        except FileNotFoundError:
            if _local_version(path) is None:  # the sweep has deleted it meanwhile
                return
            raise
        with self._lock:
            self._synced[key] = (published, version or "gone")

    @contextmanager
    def _saved_record(self) -> Iterator[None]:
        before = dict(self._synced)
        try:
            yield
        finally:
            with self._lock:
                if self._synced != before:
                    write_atomically(self._record, json.dumps(self._synced))


def _read_record(path: Path) -> dict[str, tuple[str, str]]:
    try:
        return {key: (remote, local) for key, (remote, local) in json.loads(path.read_text()).items()}
    except (FileNotFoundError, ValueError, AttributeError, TypeError):
        return {}


def _files(folder: Path, prefix: str) -> Iterator[str]:
    top = folder / prefix
    for place, folders, names in os.walk(top):
        folders[:] = [name for name in folders if not name.startswith(".") and not (Path(place) / name).is_symlink()]
        below = Path(place).relative_to(folder)
        for name in names:
            if not (name.startswith(".") or name in _LOCAL_ONLY or name.endswith(("-journal", "-wal", "-shm"))):
                yield (below / name).as_posix()
    if not prefix and (folder / _LINK).is_symlink():
        yield _LINK


def _is_hidden(key: str) -> bool:
    return any(part.startswith(".") for part in key.split("/")) or ".." in key.split("/")


def _order(key: str) -> tuple[int, str]:
    name = key.rpartition("/")[2]
    return (_LAST.index(name) + 1 if name in _LAST else -1 if key in _FIRST else 0), key


def _local_version(path: Path) -> str | None:
    try:
        if path.is_symlink():
            return os.readlink(path)
        found = path.stat()
    except FileNotFoundError:
        return None
    return f"{found.st_size}-{found.st_mtime_ns}"


@contextmanager
def _copied(path: Path, content: bytes) -> Iterator[Path]:
    copy = path.with_name(f".{path.name}.published")
    copy.write_bytes(content)
    try:
        yield copy
    finally:
        copy.unlink(missing_ok=True)


@contextmanager
def _database_copy(path: Path) -> Iterator[Path]:
    """Yield a consistent copy of an SQLite database that another connection may be writing to."""
    with _copied(path, b"") as copy:
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        yield copy
