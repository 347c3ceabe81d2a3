"""Bundles in object storage (S3, GCS) or on a mounted disk: pushed file by file, pulled into a cache by content."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from whale_ray.data.caches.cache_folder import cache_folder
from whale_ray.errors import BundleError
from whale_ray.inference.bundle import MANIFEST, read_manifest
from whale_ray.inference.bundle_transfer.object_store import ObjectStore
from whale_ray.inference.bundle_transfer.storage_systems import storage_errors
from whale_ray.retrieval.file_lock import lock_file

_PIN = "#sha256="


def pull_from_storage(url: str) -> Path:
    """Return the local folder of a bundle in object storage, downloaded unless the cache has this content.

    The folder is named after the hash of bundle.json, which has the hashes of all other files. One process of a
    machine downloads it, the others wait.

    Args:
        url: `s3://BUCKET/PATH`, `gs://BUCKET/PATH` or `file:///PATH`. With `#sha256=` and the hash of bundle.json, no
            other bundle is taken, and one in the cache is found without the storage.

    Raises:
        BundleError: If there is no bundle, it may not be read, a file is damaged, the storage does not answer, or
            the bundle there is not the pinned one.
    """
    place, _, pin = url.partition(_PIN)
    if pin and (folder := _cached(pin)).exists():
        return folder
    with _storage_errors(place):
        store, manifest = _open(place)
        digest = hashlib.sha256(manifest).hexdigest()
        if pin not in ("", digest):
            raise BundleError(
                f"{place} must still hold the bundle that was deployed, with SHA-256 {pin[:12]}… of {MANIFEST}, but "
                f"holds another one ({digest[:12]}…). Deploy the new one with `whale-ray deploy`, or push the old one"
            )
        names = _listed_names(manifest, place)
        folder = _cached(digest)
        folder.parent.mkdir(parents=True, exist_ok=True)
        locks = folder.parent.with_name("bundle_locks")
        locks.mkdir(exist_ok=True)
        with lock_file(locks / folder.name):
            if not folder.exists():
                _download(store, manifest, names, folder)
    return folder


def pin_storage_url(url: str) -> str:
    """Return the URL of a bundle in object storage with `#sha256=` and the hash of bundle.json.

    Args:
        url: `s3://BUCKET/PATH`, `gs://BUCKET/PATH` or `file:///PATH`. A link (`best` of a run) is followed.

    Raises:
        BundleError: If there is no bundle, it may not be read, or the storage does not answer.
    """
    if _PIN in url:
        return url
    with _storage_errors(url):
        store, manifest = _open(url)
    return f"{store.url}{_PIN}{hashlib.sha256(manifest).hexdigest()}"


def _open(url: str) -> tuple[ObjectStore, bytes]:
    """Return the store of a bundle and its bundle.json."""
    store = ObjectStore(url).follow_link()
    return store, store.read(MANIFEST)


def _cached(digest: str) -> Path:
    """Return the folder of the bundle whose bundle.json has this SHA-256."""
    return cache_folder() / "bundles" / digest[:32]


def _download(store: ObjectStore, manifest: bytes, names: list[str], folder: Path) -> None:
    """Download a bundle into a draft beside `folder`, check it, and rename it."""
    for left in folder.parent.glob(f".{folder.name}.*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        (draft / MANIFEST).write_bytes(manifest)
        for name in names:
            store.download(name, draft / name)
        read_manifest(draft)
        draft.chmod(0o755)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def push_to_storage(folder: Path, url: str) -> str:
    """Upload a bundle, bundle.json last, and return its URL.

    Args:
        folder: Folder of the bundle.
        url: `s3://BUCKET/PATH`, `gs://BUCKET/PATH` or `file:///PATH`, where no other bundle may be.

    Raises:
        BundleError: If another bundle is there, the storage may not be written to, or does not answer.
    """
    manifest = read_manifest(folder)
    own = (folder / MANIFEST).read_bytes()
    with _storage_errors(url):
        store = ObjectStore(url)
        if store.size(MANIFEST) is not None and store.read(MANIFEST) != own:
            raise BundleError(f"a bundle is never overwritten, but {url} holds another one. Choose another path")
        for name in (*manifest["files"], MANIFEST):
            store.upload(folder / name, name)
    return url


def _listed_names(manifest: bytes, url: str) -> list[str]:
    """Return the files that bundle.json lists; refuse names that lead out of the folder."""
    try:
        names = list(json.loads(manifest)["files"])
    except (ValueError, KeyError, TypeError):
        raise BundleError(
            f"{url} must hold a bundle, but its {MANIFEST} lists no files. Push the bundle again"
        ) from None
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name:
            raise BundleError(f"files of a bundle lie in its folder, but {url} lists {name}. Do not use this bundle")
    return names


@contextmanager
def _storage_errors(url: str) -> Iterator[None]:
    """Raise the errors of the storage as one `BundleError` with the remedy."""
    with storage_errors(url, BundleError):
        try:
            yield
        except FileNotFoundError as error:
            raise BundleError(
                f"{url} must hold a bundle, but has no {MANIFEST} or lacks a file of it: {error}"
            ) from error
