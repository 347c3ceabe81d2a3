"""Cache of local features: computed once per data set on a machine, beside the decoded photographs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from whale_ray.data.catalog import Catalog
from whale_ray.data.image_io import VERSION as DECODER_VERSION
from whale_ray.data.pixel_cache import fingerprint_files
from whale_ray.device import available_cpus
from whale_ray.errors import DataError, ImageError
from whale_ray.retrieval.file_lock import read_or_compute
from whale_ray.retrieval.local.feature_store import LocalFeatureStore, join_features, load_features
from whale_ray.retrieval.local.local_features import (
    LOCAL_SIDE,
    MOST_KEYPOINTS,
    VERSION,
    LocalFeatures,
    descriptor_size,
    extract_features,
    local_picture,
    no_features,
)
from whale_ray.verbosity import track_steps


def local_features_of(
    catalog: Catalog,
    kind: str,
    *,
    cache: Path,
    workers: int = 0,
    on_batch: Callable[[], None] = lambda: None,
    progress: bool = False,
) -> LocalFeatureStore:
    """Return the local features of a data set, row by row of the catalog, from the cache or computed into it.

    A photograph that cannot be decoded has no features. If several processes need the same features, one of them
    computes them.

    Args:
        catalog: The photographs.
        kind: `sift` or `orb`.
        cache: Cache folder of this machine.
        workers: Threads that decode and search; 0 for one per core.
        on_batch: Called after each photograph file, and while another process is awaited.
        progress: Show a progress bar.

    Raises:
        InputError: If the kind is unknown.
        DataError: If the cache cannot be written.
    """
    descriptor_size(kind)  # refuses an unknown kind
    facts = ("local", VERSION, DECODER_VERSION, kind, LOCAL_SIDE, MOST_KEYPOINTS)
    path = cache / f"{kind}-{fingerprint_files(catalog, *facts)}.npz"
    threads = workers or available_cpus()
    return read_or_compute(
        path,
        read=_read,
        compute=lambda: join_features(_extract_all(catalog, kind, threads, on_batch, progress), kind),
        write=LocalFeatureStore.save,
        what="local features are",
        on_wait=on_batch,
    )


def _read(path: Path) -> LocalFeatureStore | None:
    """Return the features of a file; None if there is none, or it is damaged and has to be written again."""
    try:
        return load_features(path) if path.exists() else None
    except DataError:
        return None


def _extract_all(
    catalog: Catalog, kind: str, workers: int, on_batch: Callable[[], None], progress: bool
) -> Iterable[LocalFeatures]:
    """Return the features of each row; a photograph with several rows is decoded once."""
    groups = [rows.tolist() for _, rows in catalog.table.groupby("file", sort=False)["image"]]
    features: dict[str, LocalFeatures] = {}
    with ThreadPoolExecutor(workers) as pool:
        found = pool.map(lambda images: _extract_file(catalog, images, kind), groups)
        for part in track_steps(found, "finding keypoints", progress=progress, total=len(groups)):
            features |= part
            on_batch()
    return [features[image] for image in catalog.table["image"]]


def _extract_file(catalog: Catalog, images: list[str], kind: str) -> dict[str, LocalFeatures]:
    """Return the features of the rows of one photograph file."""
    features = dict.fromkeys(images, no_features(kind))
    try:
        photograph = catalog.decode(images[0])
    except (OSError, ImageError):  # the audit names it
        return features
    for image in images:
        try:
            features[image] = extract_features(local_picture(photograph, box=catalog.box(image)), kind)
        except DataError:  # the box lies outside
            continue
    return features
