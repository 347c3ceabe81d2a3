"""Addresses of bundles: a local folder, or a URL of the hub or of object storage that is pulled first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from whale_ray.errors import BundleError
from whale_ray.inference.bundle_transfer.hub import pin_hub_url, pull_from_hub, push_to_hub
from whale_ray.inference.bundle_transfer.storage_systems import is_fsspec_protocol
from whale_ray.inference.bundle_transfer.stored_bundles import pin_storage_url, pull_from_storage, push_to_storage
from whale_ray.suggestions import suggest

_PULLS: dict[str, Callable[[str], Path]] = {
    "hf": pull_from_hub,
    "s3": pull_from_storage,
    "gs": pull_from_storage,
    "file": pull_from_storage,
}


def local_bundle(address: str | Path) -> Path:
    """Return the local folder of a bundle; a bundle at a URL is pulled into a cache first.

    Args:
        address: A folder, `hf://OWNER/NAME@REVISION`, `s3://BUCKET/PATH`, `gs://BUCKET/PATH`, `file:///PATH` or a
            URL of another protocol of fsspec; or what `pin_address` returns.

    Raises:
        BundleError: If a URL cannot be pulled. A folder is not looked at.
    """
    scheme, colon, _ = str(address).partition("://")
    if not colon:
        return Path(address)
    return _PULLS.get(_known(scheme), pull_from_storage)(str(address))


def pin_address(url: str) -> str:
    """Return a URL that names the content of the bundle at `url`, so that every machine pulls the same bundle.

    Args:
        url: URL of a bundle. A branch or tag becomes a commit; `best` of a run becomes the bundle that it names now.

    Returns:
        `hf://OWNER/NAME@COMMIT`, or the URL in object storage with `#sha256=` and the hash of bundle.json.

    Raises:
        BundleError: If there is no bundle, or the hub or storage does not answer.
    """
    scheme = _known(url.partition("://")[0])
    return pin_hub_url(url) if scheme == "hf" else pin_storage_url(url)


def push_bundle(folder: Path, url: str, *, public: bool = False) -> str:
    """Upload a bundle and return the URL under which exactly this bundle can be pulled.

    Args:
        folder: Folder of the bundle.
        url: `hf://OWNER/NAME`, `s3://BUCKET/PATH`, `gs://BUCKET/PATH` or `file:///PATH`.
        public: Create a public repository on the hub; object storage keeps its own rules.

    Raises:
        BundleError: If the bundle is damaged, or the target refuses it or does not answer.
    """
    scheme, colon, _ = url.partition("://")
    if not colon:
        raise BundleError(f"a bundle is pushed to hf://OWNER/NAME or s3://BUCKET/PATH, but got {url}. Give such a URL")
    return push_to_hub(folder, url, public=public) if _known(scheme) == "hf" else push_to_storage(folder, url)


def _known(scheme: str) -> str:
    if scheme not in _PULLS and not is_fsspec_protocol(scheme):
        hint = suggest(scheme, _PULLS) or "Name a folder or one of these."
        raise BundleError(
            f"a bundle's URL begins with {', '.join(f'{one}://' for one in _PULLS)}, but got {scheme}. {hint}"
        )
    return scheme
