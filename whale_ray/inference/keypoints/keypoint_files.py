"""Keypoint files of a bundle: features of the gallery and of the golden images, and the check of the latter."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from whale_ray.errors import BundleError, DataError, InputError
from whale_ray.retrieval.local.feature_store import LocalFeatureStore, join_features, load_features
from whale_ray.retrieval.local.learned.network_registry import features_kind, register_network
from whale_ray.retrieval.local.local_features import (
    LOCAL_KINDS,
    LocalFeatures,
    extract_features,
    local_picture,
    squared_length,
)

GALLERY_FILE, GOLDEN_FILE = "local.npz", "golden/local.npz"
NETWORK_FILE, MATCHER_FILE = "local.onnx", "local-matcher.onnx"
LEAST_REPRODUCED = 0.9
"""Smallest share of the keypoints of the golden images that must be found again."""
_FAR = 0.01  # of two places of one keypoint, as a share of the longer side
_DIFFERENT = 0.05  # of two descriptors of one keypoint, as a share of the squared distance that counts as 1


class KeypointFiles(NamedTuple):
    """Local features in a bundle.

    Attributes:
        gallery: Features of the gallery photographs, row by row.
        golden: Features of the golden images.
        network: ONNX file of the network that finds them; None for `sift` and `orb`.
        matcher: ONNX file of the network that matches them; None without.
    """

    gallery: LocalFeatureStore
    golden: LocalFeatureStore
    network: Path | None = None
    matcher: Path | None = None

    def write(self, folder: Path) -> None:
        """Write the files into the folder of a bundle."""
        self.gallery.save(folder / GALLERY_FILE)
        self.golden.save(folder / GOLDEN_FILE)
        for file, name in ((self.network, NETWORK_FILE), (self.matcher, MATCHER_FILE)):
            if file is not None:
                shutil.copyfile(file, folder / name)


def read_keypoint_files(folder: Path, kind: str, *, rows: int, golden: int) -> KeypointFiles:
    """Return the local features of a bundle.

    Args:
        folder: Folder of the bundle.
        kind: Kind that its retrieval setting names.
        rows: Number of gallery photographs.
        golden: Number of golden images.

    Raises:
        BundleError: If a file is missing or does not fit the bundle.
    """
    try:
        files = KeypointFiles(load_features(folder / GALLERY_FILE), load_features(folder / GOLDEN_FILE))
    except DataError as error:
        raise BundleError(f"{folder} cannot be read as a bundle: {error}") from error
    stored, expected = (files.gallery, files.golden), features_kind(kind)
    for name, store, count in zip((GALLERY_FILE, GOLDEN_FILE), stored, (rows, golden), strict=True):
        if (store.kind, len(store)) != (expected, count):
            raise BundleError(
                f"{name} of {folder} must have {expected} features of {count} photographs, but has {store.kind} "
                f"features of {len(store)}. Make the bundle again"
            )
    return files if kind in LOCAL_KINDS else _with_networks(files, folder, kind)


def _with_networks(files: KeypointFiles, folder: Path, kind: str) -> KeypointFiles:
    """Return the files with those of the networks, which are registered for this process.

    Raises:
        BundleError: If they are other networks, or cannot be used here.
    """
    network, matcher = folder / NETWORK_FILE, folder / MATCHER_FILE if kind != features_kind(kind) else None
    names = NETWORK_FILE if matcher is None else f"{NETWORK_FILE} and {MATCHER_FILE}"
    try:
        found = register_network(network, matcher)
    except InputError as error:
        raise BundleError(f"{folder} cannot be read as a bundle: {error}") from error
    if found != kind:
        raise BundleError(f"{names} of {folder} must be {kind}, but {found} came. Make the bundle again")
    return files._replace(network=network, matcher=matcher)


def features_of_pictures(pictures: Sequence[bytes], kind: str) -> LocalFeatureStore:
    """Return the local features of golden images.

    Args:
        pictures: PNG bytes.
        kind: Kind of the features.
    """
    images = [Image.open(io.BytesIO(picture)).convert("RGB") for picture in pictures]
    return join_features([extract_features(local_picture(image), kind) for image in images], kind)


def check_golden_keypoints(files: KeypointFiles, pictures: Sequence[bytes], *, bundle: str) -> None:
    """Check that the golden images give their keypoints here.

    Args:
        files: Features in the bundle.
        pictures: Golden images, PNG bytes.
        bundle: ID of the bundle.

    Raises:
        BundleError: If fewer than 90 % of the keypoints are found again.
    """
    expected, found = files.golden, features_of_pictures(pictures, files.golden.kind)
    again = [_count_found(expected.of(row), found.of(row), expected.kind) for row in range(len(expected))]
    share = sum(again) / max(len(expected.points), 1)
    if len(expected.points) and share < LEAST_REPRODUCED:
        raise BundleError(
            f"the golden images must give {LEAST_REPRODUCED:.0%} of their {expected.kind} keypoints again, but those "
            f"of {bundle} give {share:.0%} here. Use the versions of its bundle.json, or make it again"
        )


def _count_found(expected: LocalFeatures, found: LocalFeatures, kind: str) -> int:
    """Return the number of keypoints that have one at the same place with nearly the same descriptor."""
    if not len(expected) or not len(found):
        return 0
    places = np.abs(expected.points[:, None] - found.points).max(axis=2) <= _FAR
    first, second = (features.descriptors.astype(np.float64) for features in (expected, found))
    squares = np.square(first).sum(axis=1)[:, None] + np.square(second).sum(axis=1) - 2 * first @ second.T
    return int((places & (squares <= _DIFFERENT * squared_length(kind))).any(axis=1).sum())
