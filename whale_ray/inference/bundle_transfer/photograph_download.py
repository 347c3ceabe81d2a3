"""Photographs in object storage: downloaded once per node into its cache, with progress."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import pyarrow

from whale_ray.atomic_files import write_atomically
from whale_ray.data.caches.cache_folder import cache_folder
from whale_ray.errors import DataError
from whale_ray.file_errors import is_disk_full
from whale_ray.inference.bundle_transfer.object_store import ObjectStore, ObjectVersion, is_url
from whale_ray.inference.bundle_transfer.storage_systems import storage_errors
from whale_ray.retrieval.file_lock import lock_file
from whale_ray.verbosity import is_quiet, track_steps

_RECORD = ".downloaded.json"
_CONNECTIONS = 8
_SAVE_SECONDS = 10.0  # what a process that is killed downloads again
_KEPT_FREE = 1e9  # bytes of the disk that a download leaves


def local_photographs(root: Path | str, *, seconds: float = 0.0) -> Path:
    """Return the local folder of photographs; photographs at a URL are downloaded first.

    Args:
        root: A folder, `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or `file:///PATH`.
        seconds: Time for which storage that has answered on this node before is asked again.

    Raises:
        DataError: If the storage cannot be used, holds nothing there, or more than the disk of this node can take.
    """
    return download_photographs(str(root), seconds=seconds) if is_url(root) else Path(root)


@functools.cache  # within one process the photographs do not change
def download_photographs(url: str, *, seconds: float = 0.0) -> Path:
    """Download the objects below a URL that the cache of this node lacks, and return their folder.

    One process of a node downloads, the others wait for it. Objects that have changed are downloaded again; files
    whose objects are gone are deleted. An interrupted download continues, also after its process was killed.

    Args:
        url: `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or `file:///PATH`.
        seconds: Time for which storage that has answered on this node before is asked again.

    Raises:
        DataError: If the storage cannot be used, holds nothing there, or more than the disk of this node can take.
    """
    folder = cache_folder() / "photographs" / hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    while True:
        try:
            with storage_errors(url, DataError), lock_file(folder.with_suffix(".lock")):
                _download_missing(url, folder)
            return folder
        except DataError as error:
            is_known = (folder / _RECORD).exists()
            if not (is_known and _is_outage(error.__cause__)) or time.monotonic() - begun >= seconds:
                raise
        time.sleep(1.0)


def _is_outage(cause: BaseException | None) -> bool:
    """Return whether an error of the storage may pass, unlike a full disk of this node."""
    return isinstance(cause, OSError | pyarrow.ArrowException) and not is_disk_full(cause)


def _download_missing(url: str, folder: Path) -> None:
    store = ObjectStore(url)
    found = {key: version for key, version in store.list().items() if _is_usable(key)}
    if not found:
        raise DataError(
            f"data.root must hold a table and photographs, but nothing is at {url}. Check the bucket and the prefix"
        )
    _synchronize(store, folder, found)


def _is_usable(key: str) -> bool:
    """Return whether a key is a file below the folder that is not hidden."""
    parts = PurePosixPath(key).parts
    return bool(parts) and ".." not in parts and "\\" not in key and not any(part.startswith(".") for part in parts)


def _synchronize(store: ObjectStore, folder: Path, found: Mapping[str, ObjectVersion]) -> None:
    with _recorded(folder) as have:
        for key in have.keys() - found.keys():
            (folder / key).unlink(missing_ok=True)
            del have[key]
        wanted = [key for key, version in found.items() if have.get(key) != version or not (folder / key).exists()]
        size = sum(found[key].size for key in wanted)
        _require_room(store.url, folder, size)
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            text = f"downloading {len(wanted)} files, {size / 1e6:.1f} MB, from {store.url}"
            done = pool.map(lambda key: _download(store, key, folder), wanted)
            saved = time.monotonic()
            for key in track_steps(done, text, progress=not is_quiet() and bool(wanted), total=len(wanted)):
                have[key] = str(found[key])
                if time.monotonic() - saved >= _SAVE_SECONDS:
                    _write_record(folder, have)
                    saved = time.monotonic()


def _download(store: ObjectStore, key: str, folder: Path) -> str:
    path = folder / key
    path.parent.mkdir(parents=True, exist_ok=True)
    store.download(key, path)
    return key


def _require_room(url: str, folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size and size + _KEPT_FREE > free:
        raise DataError(
            f"the photographs at {url} must fit on the disk of {folder}, but {size / 1e9:.1f} GB are missing there and "
            f"{free / 1e9:.1f} GB are free. Make room, or name a folder on another disk in WHALE_RAY_CACHE"
        )


@contextmanager
def _recorded(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the version of each downloaded object by key; it is written at the end, also of a failed download."""
    try:
        have = dict(json.loads((folder / _RECORD).read_text()))
    except (OSError, ValueError):
        have = {}
    try:
        yield have
    finally:
        _write_record(folder, have)


def _write_record(folder: Path, have: Mapping[str, str]) -> None:
    write_atomically(folder / _RECORD, json.dumps(have))
