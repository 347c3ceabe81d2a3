"""Sources of bundles that come from a URL, so that each machine of a cluster pulls the bundle of the others."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whale_ray.errors import BundleError
from whale_ray.file_errors import real_path
from whale_ray.inference.bundle import MANIFEST
from whale_ray.inference.bundle_transfer.addresses import local_bundle, pin_address


class BundleSources:
    """URLs of the bundles of a service, pinned to their content, by their folders on the machine that deployed them.

    Args:
        urls: Folder → URL.
    """

    def __init__(self, urls: Mapping[Path, str] | None = None) -> None:
        self._urls = dict(urls or {})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BundleSources) and self._urls == other._urls

    __hash__ = None  # type: ignore[assignment]  # it changes

    def pull(self, address: Any) -> Any:
        """Return the local folder of a bundle at a URL and keep the URL; return anything else unchanged.

        Raises:
            BundleError: If the URL cannot be pulled.
        """
        if not isinstance(address, str) or "://" not in address:
            return address
        pinned = pin_address(address)
        folder = real_path(local_bundle(pinned))
        self._urls[folder] = pinned
        return folder

    def local_folder(self, folder: Path) -> Path:
        """Return the folder of a bundle on this machine, pulled if this machine lacks it and it came from a URL.

        Args:
            folder: Folder of the bundle on the machine that deployed it.

        Raises:
            BundleError: If the URL cannot be pulled.
        """
        url = self._urls.get(folder)
        return folder if url is None or _is_complete(folder) else local_bundle(url)

    def replica_folder(self, folder: Path) -> Path:
        """Return `local_folder` for a replica, which may run on another machine than the one that deployed.

        Args:
            folder: Folder of the bundle on the machine that deployed it.

        Raises:
            BundleError: If this machine lacks the folder and it came from no URL, or the URL cannot be pulled.
        """
        found = self.local_folder(folder)
        if not found.exists():
            raise BundleError(
                f"a bundle must be at the same path on every machine of the service, but {socket.gethostname()} has no "
                f"{folder}. Copy it there, or name the bundle by a URL (s3://…, hf://…), which each machine pulls"
            )
        return found

    def merged(self, other: BundleSources) -> BundleSources:
        """Return the sources of both."""
        return BundleSources({**self._urls, **other._urls})

    def of(self, folders: set[Path]) -> BundleSources:
        """Return the sources of these folders only."""
        return BundleSources({folder: url for folder, url in self._urls.items() if folder in folders})


NO_SOURCES = BundleSources()


def _is_complete(folder: Path) -> bool:
    """Return whether a folder has all files of its bundle; the hub's cache keeps what an interrupted download left."""
    try:
        return all((folder / name).exists() for name in json.loads((folder / MANIFEST).read_text())["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
