"""File systems of fsspec as those of pyarrow, for storage that pyarrow does not open (`az://`, `hf://`, `sftp://`)."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Callable
from typing import Any

import pyarrow
from pyarrow.fs import FileInfo, FileSelector, FileType, FSSpecHandler, PyFileSystem

from whale_ray.errors import InputError, first_line

_ANSWER_SECONDS = 60.0  # paramiko has no limit of its own
_SSH_LIMITS = {"timeout": 30.0, "banner_timeout": 30.0, "auth_timeout": 30.0}
_VERSIONS = ("etag", "ETag", "blob_id", "xet_hash", "mtime", "last_modified", "LastModified", "updated", "created")


def open_with_fsspec(url: str) -> tuple[Any, str]:
    """Return the pyarrow file system of a URL that fsspec opens, with credentials as they are now, and the path in it.

    Args:
        url: A URL whose scheme is a protocol of fsspec.

    Raises:
        InputError: If the package of the protocol is not installed.
        OSError: If the package refuses the URL or the credentials, or the server does not answer.
    """
    import fsspec

    scheme = url.partition("://")[0]
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        raise InputError(
            f"{scheme}:// needs a Python package on each machine, but it is not installed: {error}. "
            "Install it with pip, or name storage at s3:// or gs://"
        ) from error
    system, place = _raises_os_errors(_connect)(url, scheme)
    if not system.async_impl:
        system = _PerThread(system, lambda: _connect(url, scheme)[0])
    return PyFileSystem(_Handler(_Calls(system))), str(place).rstrip("/")


def _connect(url: str, scheme: str) -> tuple[Any, str]:
    """Return a new file system of fsspec, and the path in it; a server that does not answer is an error in time."""
    import fsspec

    is_ssh = scheme in ("sftp", "ssh")
    system, place = fsspec.url_to_fs(url, skip_instance_cache=True, **(_SSH_LIMITS if is_ssh else {}))
    if is_ssh:
        system.ftp.get_channel().settimeout(_ANSWER_SECONDS)
    return system, place


class _PerThread:
    """A file system of fsspec that each thread opens for itself.

    Packages that are not asynchronous need not be safe for threads: if two ask at once, paramiko loses one answer,
    whose thread waits without end.
    """

    def __init__(self, first: Any, open_again: Callable[[], Any]) -> None:
        self._open, self._of_thread = _raises_os_errors(open_again), threading.local()
        self._of_thread.system = first

    def __getattr__(self, name: str) -> Any:
        if not hasattr(self._of_thread, "system"):
            self._of_thread.system = self._open()
        return getattr(self._of_thread.system, name)


class _Calls:
    """Passes on the calls of a file system or stream of fsspec; all of their errors become OSError."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        return _raises_os_errors(found) if callable(found) else found


def _raises_os_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except TimeoutError as error:
            raise TimeoutError(str(error) or f"no answer within {_ANSWER_SECONDS:g} s") from error
        except (OSError, pyarrow.ArrowException):
            raise
        except Exception as error:
            raise OSError(f"{type(error).__name__}: {first_line(error)}") from error

    return call


class _Handler(FSSpecHandler):
    """Passes pyarrow's calls to fsspec without its cached listings, and tells versions of an object apart."""

    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        """Return what pyarrow asks of objects."""
        self.fs.invalidate_cache()
        return list(super().get_file_info(paths))

    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        """Return what pyarrow asks of the objects below a folder."""
        self.fs.invalidate_cache()
        return list(super().get_file_info_selector(selector))

    def move(self, src: str, dest: str) -> None:
        """Give an object another name; not all packages take the argument of pyarrow for folders."""
        self.fs.mv(src, dest)

    def open_input_stream(self, path: str) -> Any:
        """Return the stream of an object."""
        return pyarrow.PythonFile(_Calls(self.fs.open(path, mode="rb")), mode="r")

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        """Return the stream of an object to be written."""
        return pyarrow.PythonFile(_Calls(self.fs.open(path, mode="wb")), mode="w")

    @staticmethod
    def _create_file_info(path: str, info: dict[str, Any]) -> FileInfo:
        if info["type"] != "file":
            return FileInfo(path, FileType.Directory if info["type"] == "directory" else FileType.Unknown)
        return FileInfo(path, FileType.File, size=info["size"], mtime_ns=_version_number(path, info))


def _version_number(path: str, info: dict[str, Any]) -> int:
    """Return a number that changes with an object, in place of its time: not all storage has one, or sets it.

    Packages quote etags in some calls and not in others.
    """
    version = next((found for name in _VERSIONS if (found := info.get(name)) is not None), None)
    if version is None:
        raise OSError(f"storage must say when an object has changed, but nothing does for {path}: {', '.join(info)}")
    return int.from_bytes(hashlib.sha256(str(version).strip('"').encode()).digest()[:7])
