"""Checks of a node of the cluster against the driver: the code of whale_ray and the photographs of the sweep.

Importing this module loads neither PyTorch nor pandas, so that a node can be checked before its first trial.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from whale_ray.data.caches.cache_folder import pixel_cache
from whale_ray.errors import InputError
from whale_ray.inference.bundle_transfer.object_store import is_url

if TYPE_CHECKING:
    from whale_ray.data.catalog import Catalog
    from whale_ray.data.image_io import Geometry
    from whale_ray.sweep.planning.dataset import Dataset

SAME_CODE = "Install the same version on all nodes, or send it with the sweep: `ray job submit --working-dir .`"
"""Remedy of a node whose code differs."""
_MAX_LOOKED_FOR = 100
_DOWNLOAD_SECONDS = 600.0  # for which a node waits for storage that has answered there before
_COPY = "Copy them to the same path on all nodes, or name them by a URL with --data s3://BUCKET/PREFIX"


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
            f"node {socket.gethostname()} must have the driver's whale_ray, {driver}, but has {here}. {SAME_CODE}"
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


@dataclass(frozen=True)
class NodeNeeds:
    """Needs of a trial on its node, as far as they can be checked within a fraction of a second.

    Attributes:
        code: `code_version()` of the driver.
        folder: Folder of photographs on every node; None if each node downloads them.
        images: Some photographs in it that the driver can use.
        cache: The driver's folder of decoded images.
        decoded: Names in that folder. A node that sees them there needs no photographs.
    """

    code: str
    folder: Path | None
    images: tuple[Path, ...]
    cache: Path
    decoded: tuple[str, ...]

    def fault(self) -> str:
        """Return why this node cannot run a trial; empty if no reason was found."""
        try:
            check_code(self.code)
            if self.folder is not None and not has_decoded(self.cache, self.decoded):
                check_image_files(self.folder, self.images)
        except UnfitNodeError as error:
            return str(error)
        return ""


def needs_of(dataset: Dataset, root: str, code: str) -> NodeNeeds:
    """Return what a node must have for a sweep, with at most 100 of its photographs.

    Args:
        dataset: The dataset as the driver opened it.
        root: `data.root`.
        code: `code_version()` of the driver.
    """
    folder = None if is_url(root) else dataset.catalog.folder.absolute()
    images = _usable_images(dataset, dataset.catalog)
    some = tuple(path.absolute() for path in images[:: len(images) // _MAX_LOOKED_FOR + 1])
    return NodeNeeds(code, folder, some, dataset.cache, tuple(dataset.decoded.values()))


def has_decoded(cache: Path, names: Sequence[str]) -> bool:
    """Return whether this node uses the driver's folder of decoded images and sees what the driver has in it.

    Args:
        cache: The driver's folder.
        names: Names in that folder; without one, nothing is known.
    """
    return bool(names) and cache == pixel_cache() and all((cache / name).exists() for name in names)


def check_image_files(folder: Path, images: Sequence[Path]) -> None:
    """Raise UnfitNodeError if this node lacks photographs of the driver.

    Args:
        folder: Folder of photographs.
        images: Photographs in it, all or some, that the driver can use.
    """
    lack = ""
    if not folder.is_dir():
        lack = f"{folder} does not exist there"
    elif next(folder.iterdir(), None) is None:  # such as a folder without the disk that belongs there
        lack = f"{folder} is empty there"
    elif missing := sum(not path.exists() for path in images):
        lack = f"{missing} of the {len(images)} photographs that were looked for are missing in {folder}"
    if lack:
        raise UnfitNodeError(_photographs_fault(lack, _COPY))


def dataset_on_this_node(dataset: Dataset, root: str, geometry: Geometry | None = None) -> Dataset:
    """Return the dataset with the folders of this node, whose photographs are those of the driver.

    Args:
        dataset: The dataset as the driver opened it.
        root: `data.root`; a URL is downloaded into the cache of this node.
        geometry: At which photographs are decoded for the comparison if this node has to; default: the first one.

    Raises:
        UnfitNodeError: If photographs are missing or differ, or cannot be downloaded or decoded here.
    """
    from whale_ray.data.pixel_cache import data_fingerprint, decode_images

    if has_decoded(dataset.cache, tuple(dataset.decoded.values())):
        return dataset
    try:
        catalog = dataset.catalog
        if is_url(root):
            catalog = dataclasses.replace(catalog, folder=_folder_here(dataset, root))
        check_image_files(catalog.folder, _usable_images(dataset, catalog))
        if geometry is None or geometry not in dataset.decoded:
            geometry = next(iter(dataset.decoded))
        own = pixel_cache()
        pixels = decode_images(catalog, geometry, cache=own)
    except UnfitNodeError:
        raise
    except (InputError, OSError) as error:
        raise UnfitNodeError(f"node {socket.gethostname()} cannot use the photographs: {error}") from error
    if data_fingerprint(catalog, pixels) != dataset.fingerprint:
        remedy = "Run the same command again when no photographs change meanwhile" if is_url(root) else _COPY
        raise UnfitNodeError(_photographs_fault("their content differs", remedy))
    return dataclasses.replace(dataset, catalog=catalog, cache=own, decoded={geometry: pixels.fingerprint})


def _usable_images(dataset: Dataset, catalog: Catalog) -> list[Path]:
    """Return the image files in the folder of a catalog which the driver can use."""
    return [catalog.path(image) for image in dataset.table["image"][dataset.usable]]


def _photographs_fault(lack: str, remedy: str) -> str:
    return f"node {socket.gethostname()} must have the photographs that the driver has, but {lack}. {remedy}"


def _folder_here(dataset: Dataset, root: str) -> Path:
    """Return the image folder below the download of this node; it is below that of the driver in the same way."""
    from whale_ray.inference.bundle_transfer.photograph_download import local_photographs

    recognition = dataset.catalog.recognition
    top = recognition.root if recognition else None
    return local_photographs(root, seconds=_DOWNLOAD_SECONDS) / dataset.catalog.folder.relative_to(
        top or dataset.catalog.folder
    )
