"""Sources of bundles that come from a URL, so that each machine of a cluster pulls the bundle of the others."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Collection, Mapping
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
            raise BundleError(_must_be_everywhere(f"{socket.gethostname()} has no {folder}"))
        return found

    def digests(self, folders: Collection[Path]) -> dict[Path, str]:
        """Return the SHA-256 of bundle.json of those bundles that come from no URL; bundle.json has those of all files.

        Args:
            folders: Folders of bundles; those that this machine lacks are left out.
        """
        own = (folder for folder in folders if folder not in self._urls and (folder / MANIFEST).exists())
        return {folder: _digest(folder) for folder in own}

    def merged(self, other: BundleSources) -> BundleSources:
        """Return the sources of both."""
        return BundleSources({**self._urls, **other._urls})

    def of(self, folders: set[Path]) -> BundleSources:
        """Return the sources of these folders only."""
        return BundleSources({folder: url for folder, url in self._urls.items() if folder in folders})


NO_SOURCES = BundleSources()


def fault_of_folders(digests: Mapping[Path, str], machine: str) -> str | None:
    """Return why this machine cannot serve bundles at the paths of another machine; None if it can.

    Args:
        digests: Folder → SHA-256 of bundle.json on the machine that deploys.
        machine: Name of this machine for the message.
    """
    for folder, digest in digests.items():
        try:
            is_same = _digest(folder) == digest
        except OSError:
            return _must_be_everywhere(f"{machine} has no {folder}")
        if not is_same:
            return _must_be_everywhere(f"{machine} has another bundle in {folder}")
    return None


def _must_be_everywhere(lack: str) -> str:
    return (
        f"a bundle must be at the same path on every machine of the service, but {lack}. Copy it there, or name the "
        "bundle by a URL (s3://…, hf://…), which each machine pulls"
    )


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()


def _is_complete(folder: Path) -> bool:
    """Return whether a folder has all files of its bundle; the hub's cache keeps what an interrupted download left."""
    try:
        return all((folder / name).exists() for name in json.loads((folder / MANIFEST).read_text())["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
