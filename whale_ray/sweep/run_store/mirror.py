"""Mirror of a run folder: a local folder that is downloaded from a run store and whose changes are uploaded."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from whale_ray.atomic_files import replace_symlink
from whale_ray.inference.bundle_transfer.object_store import ObjectStore
from whale_ray.sweep.run_store.changed_folders import LINK, ChangedFolders, Group, group_of, version_of
from whale_ray.sweep.run_store.sync_record import RECORD, SyncedVersions, SyncRecord
from whale_ray.sweep.run_store.upload_copies import content_copy, database_copy

_FIRST = ("sweep.yaml", "identity.json")
_LAST = ("result.json", "bundle.json", LINK)
_WEIGHTS = "/checkpoint/encoder.safetensors"
_LEFT_OUT = ""  # local version of a file that is in the store only
_GONE = "gone"  # local version of a file that was deleted while it was synchronized


class Changes(NamedTuple):
    """Files of a mirror that differ from the store.

    Attributes:
        changed: Keys of new and changed files, in the order of their upload.
        deleted: Keys of files that were deleted since they were synchronized.
    """

    changed: list[str]
    deleted: list[str]

    def __bool__(self) -> bool:
        """Return whether any file differs."""
        return bool(self.changed or self.deleted)


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
        self._downloading: set[str] = set()
        self._record = SyncRecord(folder / below / RECORD)
        self._folders = ChangedFolders(folder)

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
        with self._saved_record(), self._kept_from_upload(wanted):
            for key in sorted(wanted, key=_order):
                self._download(key, wanted[key])

    def changes(self, prefix: str = "", *, thorough: bool = True) -> Changes:
        """Return what differs from the store, as far as this mirror knows.

        Args:
            prefix: Folder of a trial, such as `trials/ID/`; "" for the run folder.
            thorough: Also look at finished trials whose folders have not changed since they were synchronized.
        """
        changed, deleted = list[str](), list[str]()
        groups = self._folders.groups(group_of(prefix), known=self._record.groups(), thorough=thorough)
        for group in groups:
            found = self._changes_of(group)
            if not found:
                self._folders.settle(group)
            changed += found.changed
            deleted += found.deleted
        return Changes(sorted(changed, key=_order), deleted)

    def publish(self, changes: Changes, *, may_go_on: Callable[[], bool] = lambda: True) -> None:
        """Upload changed files, results last, and delete the objects of deleted ones.

        Args:
            changes: The changes that `changes` has returned.
            may_go_on: Asked before each file; if False, the others are left.
        """
        with self._saved_record():
            for key in takewhile(lambda _: may_go_on(), changes.changed):
                self._upload(key)
            for key in takewhile(lambda _: may_go_on(), changes.deleted):
                self.store.delete(key)
                self._record.put(key, None)

    def push(self, prefix: str = "") -> None:
        """Upload what has changed, and delete the objects of files that were deleted since they were synchronized.

        Args:
            prefix: Folder of a trial, such as `trials/ID/`; "" for the run folder.
        """
        self.publish(self.changes(prefix))

    def has_left_out(self, prefix: str) -> bool:
        """Return whether the weights below a folder were left out of a download and are in the store.

        Args:
            prefix: Folder of a trial, or one below it.
        """
        found = self._record.of_group(group_of(prefix))
        return any(local == _LEFT_OUT for key, (_, local) in found.items() if key.startswith(prefix))

    def _leave_out(self, key: str, version: str) -> None:
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # of an earlier version
        self._record.put(key, SyncedVersions(str(version), _LEFT_OUT))

    def _drop_missing(self, found: Container[str]) -> None:
        """Delete unchanged files whose objects another driver has deleted; an emptied store gets all files again."""
        for key, versions in self._record.every().items():
            if key not in found:
                self._record.put(key, None)
                if _FIRST[0] in found and version_of(self.folder / key) == versions.local:
                    (self.folder / key).unlink()

    def _has(self, key: str, version: str) -> bool:
        path, known = self.folder / key, self._record.get(key)
        return known is not None and known.remote == version and (path.exists() or path.is_symlink())

    def _changes_of(self, group: Group) -> Changes:
        known = self._record.of_group(group.name)
        with self._lock:
            files = {key: version for key, version in group.files.items() if key not in self._downloading}
        changed = [key for key, version in files.items() if key not in known or known[key].local != version]
        missing = known.keys() - group.files.keys()
        return Changes(changed, [key for key in missing if self._is_deleted(key, known[key].local)])

    def _is_deleted(self, key: str, synced: str) -> bool:
        path = self.folder / key
        return not path.parent.is_dir() if synced == _LEFT_OUT else version_of(path) is None

    @contextmanager
    def _kept_from_upload(self, keys: Iterable[str]) -> Iterator[None]:
        """Let `changes` leave out files whose download is not recorded yet, lest it replaces a newer object."""
        with self._lock:
            self._downloading |= set(keys)
        try:
            yield
        finally:
            with self._lock:
                self._downloading -= set(keys)

    def _download(self, key: str, version: str) -> None:
        path = self.folder / key
        if key == LINK:
            replace_symlink(path, self.folder / self.store.read(key).decode().strip())
        else:
            self.store.download(key, path)
        self._record.put(key, SyncedVersions(str(version), version_of(path) or _GONE))

    def _upload(self, key: str) -> None:
        path = self.folder / key
        version, known = version_of(path), self._record.get(key)
        if known is not None and known.local == version:  # downloaded meanwhile
            return
        try:
            if key == LINK:
                with content_copy(path, os.readlink(path).encode()) as copy:
                    published = self.store.upload(copy, key)
            elif path.suffix == ".db":
                with database_copy(path) as copy:
                    published = self.store.upload(copy, key)
            else:
                published = self.store.upload(path, key)
        except FileNotFoundError:
            if version_of(path) is None:  # the sweep has deleted it meanwhile
                return
            raise
        self._record.put(key, SyncedVersions(str(published), version or _GONE))

    @contextmanager
    def _saved_record(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._record.save()


def _is_hidden(key: str) -> bool:
    return any(part.startswith(".") for part in key.split("/")) or ".." in key.split("/")


def _order(key: str) -> tuple[int, str]:
    name = key.rpartition("/")[2]
    return (_LAST.index(name) + 1 if name in _LAST else -1 if key in _FIRST else 0), key
