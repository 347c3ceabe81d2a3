"""Checks of a node of the cluster against the driver: the code of whale_ray and the photographs of the sweep."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import socket
import time
from importlib import import_module
from pathlib import Path

from whale_ray.data.pixel_cache import data_fingerprint, decode_images
from whale_ray.errors import InputError
from whale_ray.inference.bundle_transfer.object_store import is_url
from whale_ray.inference.bundle_transfer.photograph_download import local_photographs
from whale_ray.sweep.planning.dataset import Dataset, pixel_cache

UNFIT_NODE = "unfit_node"
"""Figure of the report of a trial that cannot train on its node: the ID of the node."""


class UnfitNodeError(InputError):
    """A node has other code than the driver, does not see its run folder, lacks the photographs or has others."""


@functools.cache
def code_version() -> str:
    """Return version and digest of the code that runs here, as `0.2.0 (code 1f0c9a7be3d2)`."""
    package = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes() + b"\0")
    code = import_module("whale_ray")  # not the installed distribution: a job may have sent another version
    return f"{code.__version__} (code {digest.hexdigest()[:12]})"


def check_code(driver: str) -> None:
    """Raise UnfitNodeError if this node would run other code than the driver.

    Args:
        driver: `code_version()` of the driver.
    """
    if (here := code_version()) != driver:
        raise UnfitNodeError(
            f"node {socket.gethostname()} must have the driver's whale_ray, {driver}, but has {here}. Install the same "
            "version on all nodes, or send it with the sweep: `ray job submit --working-dir .`"
        )


def check_run_folder(folder: Path, trial: str, *, seconds: float = 10.0) -> None:
    """Raise UnfitNodeError if this node does not see the run folder of the driver.

    Args:
        folder: The run folder.
        trial: ID of a trial that the driver has created.
        seconds: Time until which a shared file system may show a new file on other nodes.
    """
    limit = time.monotonic() + seconds
    while not (settings := folder / "trials" / trial / "settings.json").exists() and time.monotonic() < limit:
        time.sleep(0.2)
    if not settings.exists():
        raise UnfitNodeError(
            f"node {socket.gethostname()} must see the run folder of the driver, but {folder} has no trial {trial} "
            "there. Name a folder that all nodes share, or object storage: --runs s3://BUCKET/PREFIX"
        )


def dataset_on_this_node(dataset: Dataset, root: str) -> Dataset:
    """Return the dataset with the folders of this node, whose photographs are those of the driver.

    Args:
        dataset: The dataset as the driver opened it.
        root: `data.root`; a URL is downloaded into the cache of this node.

    Raises:
        UnfitNodeError: If photographs are missing or differ, or cannot be downloaded or decoded here.
    """
    own = pixel_cache()
    if dataset.cache == own and all((own / name).is_dir() for name in dataset.decoded.values()):
        return dataset
    here = socket.gethostname()
    try:
        catalog = dataset.catalog
        if is_url(root):
            catalog = dataclasses.replace(catalog, folder=_folder_here(dataset, root))
        geometry = next(iter(dataset.decoded))
        pixels = decode_images(catalog, geometry, cache=own)
    except (InputError, OSError) as error:
        raise UnfitNodeError(f"node {here} cannot use the photographs: {error}") from error
    if data_fingerprint(catalog, pixels) != dataset.fingerprint:
        missing = int((pixels.health["status"] == "missing").sum())
        lack = (
            f"{missing} of {len(pixels.health)} are missing in {catalog.folder}" if missing else "their content differs"
        )
        raise UnfitNodeError(f"node {here} must have the photographs that the driver has, but {lack}. {_remedy(root)}")
    return dataclasses.replace(dataset, catalog=catalog, cache=own, decoded={geometry: pixels.fingerprint})


def _remedy(root: str) -> str:
    if is_url(root):
        return "Run the same command again when no photographs change meanwhile"
    return "Copy them to the same path on all nodes, or name them by a URL with --data s3://BUCKET/PREFIX"


def _folder_here(dataset: Dataset, root: str) -> Path:
    """Return the image folder below the download of this node; it is below that of the driver in the same way."""
    recognition = dataset.catalog.recognition
    top = recognition.root if recognition else None
    return local_photographs(root) / dataset.catalog.folder.relative_to(top or dataset.catalog.folder)
