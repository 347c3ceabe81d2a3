"""Bundles in object storage (S3, GCS) or on a mounted disk: pushed file by file, pulled into a cache by content."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from whale_ray.data.pixel_cache import cache_folder
from whale_ray.errors import BundleError
from whale_ray.inference.bundle import MANIFEST, read_manifest
from whale_ray.inference.bundle_transfer.object_store import ObjectStore
from whale_ray.inference.bundle_transfer.storage_systems import storage_errors


def pull_from_storage(url: str) -> Path:
    """Return the local folder of a bundle in object storage, downloaded unless the cache has this content.

    The folder is named after the hash of bundle.json, which has the hashes of all other files.

    Args:
        url: `s3://BUCKET/PATH`, `gs://BUCKET/PATH` or `file:///PATH`.

    Raises:
        BundleError: If there is no bundle, it may not be read, a file is damaged, or the storage does not answer.
    """
    with _storage_errors(url):
        store = ObjectStore(url).follow_link()
        manifest = store.read(MANIFEST)
        names = _listed_names(manifest, url)
        folder = cache_folder() / "bundles" / hashlib.sha256(manifest).hexdigest()[:32]
        if folder.exists():
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            (draft / MANIFEST).write_bytes(manifest)
            for name in names:
                store.download(name, draft / name)
            read_manifest(draft)
            _publish(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return folder


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


def _publish(draft: Path, folder: Path) -> None:
    draft.chmod(0o755)
    try:
        draft.rename(folder)
    except OSError:  # another process has just pulled the same content
        if not folder.exists():
            raise


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
