"""Objects below one URL of object storage or a mounted disk: list, read, write, upload, download, move, delete."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from whale_ray.atomic_files import replaced_atomically
from whale_ray.inference.bundle_transfer.storage_systems import open_storage, writes_in_place

_COPIED_BYTES = 1 << 20
_LINK_BYTES = 1024  # of an object that names another place


def is_url(address: str | Path) -> bool:
    """Return whether an address is a URL and not a path."""
    return "://" in str(address)


class ObjectStore:
    """Reads and writes objects; a key is a path below the URL.

    The first call opens the storage. Every failed call raises OSError or ArrowException; a URL that cannot work raises
    InputError: another scheme, no bucket, or a protocol whose package is not installed.

    Args:
        url: `s3://BUCKET/PATH`, `gs://BUCKET/PATH`, `file:///PATH` or a URL of another protocol of fsspec.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._is_disk = writes_in_place(url)
        self._opened: tuple[Any, str] | None = None

    def reconnect(self) -> None:
        """Let the next call open the storage again, with the credentials of the environment as they are then."""
        self._opened = None

    def list(self, prefix: str = "", *, recursive: bool = True) -> dict[str, ObjectVersion]:
        """Return the objects below a prefix by key; an empty dict without any.

        Args:
            prefix: Folder below the URL; "" for all.
            recursive: Also list the folders below it.
        """
        from pyarrow.fs import FileSelector

        top = f"{self._place}/{prefix}".rstrip("/")
        found = self._system.get_file_info(FileSelector(top, recursive=recursive, allow_not_found=True))
        return {str(info.path)[len(self._place) + 1 :]: ObjectVersion(info) for info in found if info.is_file}

    def read(self, key: str) -> bytes:
        """Return the content of an object.

        Raises:
            FileNotFoundError: If there is none.
        """
        with self._system.open_input_stream(self._path(key)) as stream:
            return bytes(stream.read())

    def size(self, key: str) -> int | None:
        """Return the bytes of an object; None if there is none."""
        found = self._system.get_file_info(self._path(key))
        return int(found.size) if found.is_file else None

    def follow_link(self) -> ObjectStore:
        """Return the store that a small object at this URL names, beside it; this store if there is none.

        `best` of a run in object storage is such an object.
        """
        found = self._system.get_file_info(self._place)
        if not found.is_file or found.size > _LINK_BYTES:
            return self
        with self._system.open_input_stream(self._place) as stream:
            target = PurePosixPath(bytes(stream.read()).decode(errors="replace").strip())
        if target.is_absolute() or ".." in target.parts:
            return self
        place, mark, options = self.url.partition("?")
        return ObjectStore(f"{place.rpartition('/')[0]}/{target}{mark}{options}")

    def write(self, key: str, content: bytes) -> None:
        """Write an object, which appears when it is complete.

        Args:
            key: Its key.
            content: Its content.
        """
        with self._written(key) as stream:
            stream.write(content)

    def download(self, key: str, path: Path) -> None:
        """Write an object into a local file, which appears when it is complete.

        Args:
            key: Key of the object.
            path: The file.
        """
        with (
            self._system.open_input_stream(self._path(key)) as source,
            replaced_atomically(path) as draft,
            draft.open("wb") as target,
        ):
            shutil.copyfileobj(source, target, _COPIED_BYTES)

    def upload(self, path: Path, key: str) -> ObjectVersion:
        """Write a local file as an object, which appears when it is complete, and return its version.

        Args:
            path: The file.
            key: Key of the object.
        """
        with path.open("rb") as source, self._written(key) as target:
            shutil.copyfileobj(source, target, _COPIED_BYTES)
        return ObjectVersion(self._system.get_file_info(self._path(key)))

    def move(self, key: str, new: str) -> None:
        """Give an object another key.

        Args:
            key: Its key.
            new: The other key.
        """
        if self._is_disk:
            self._make_folder(new)
            self._system.move(self._path(key), self._path(new))
            return
        self._system.copy_file(self._path(key), self._path(new))
        self._system.delete_file(self._path(key))

    def delete(self, key: str) -> None:
        """Delete an object, if it exists."""
        if self.size(key) is not None:
            self._system.delete_file(self._path(key))

    @contextmanager
    def _written(self, key: str) -> Iterator[Any]:
        """Yield the stream of an object. On a disk, a draft gets the content and then the object's name."""
        self._make_folder(key)
        name = PurePosixPath(key).name
        draft = str(PurePosixPath(key).with_name(f".{name}.draft")) if self._is_disk else key
        with self._system.open_output_stream(self._path(draft)) as stream:
            yield stream
        if draft != key:
            self._system.move(self._path(draft), self._path(key))

    @property
    def _system(self) -> Any:
        return self._open()[0]

    @property
    def _place(self) -> str:
        return self._open()[1]

    def _open(self) -> tuple[Any, str]:
        opened = self._opened
        if opened is None:
            opened = self._opened = open_storage(self.url)
        return opened

    def _make_folder(self, key: str) -> None:
        if self._is_disk:  # object storage has no folders
            self._system.create_dir(str(PurePosixPath(self._path(key)).parent), recursive=True)

    def _path(self, key: str) -> str:
        return f"{self._place}/{key}"


class ObjectVersion(str):
    """Version of an object: its size and its time of change, which the storage sets.

    Attributes:
        size: Size in bytes.
    """

    size: int

    def __new__(cls, info: Any) -> ObjectVersion:
        """Return the version of an object.

        Args:
            info: pyarrow's FileInfo of the object.
        """
        version = super().__new__(cls, f"{info.size}-{info.mtime_ns}")
        version.size = info.size
        return version
