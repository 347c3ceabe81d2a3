"""Local features of many photographs in compact arrays."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from whale_ray.atomic_files import replaced_atomically
from whale_ray.errors import DataError
from whale_ray.retrieval.local.local_features import LocalFeatures, descriptor_size, is_local_kind

FEATURE_ARRAYS = ("points", "descriptors", "offsets")


@dataclass(frozen=True)
class LocalFeatureStore:
    """Local features of N photographs: 132 bytes per SIFT keypoint, 260 per ORB keypoint.

    Attributes:
        kind: `sift` or `orb`.
        points: Points of all keypoints, float16, shape (T, 2); see `LocalFeatures`.
        descriptors: Their descriptors, uint8, shape (T, D).
        offsets: Photograph i has the keypoints offsets[i] to offsets[i + 1]; int64, shape (N + 1,).
    """

    kind: str
    points: np.ndarray
    descriptors: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> np.ndarray:
        """Number of keypoints of each photograph, int64, shape (N,)."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> np.ndarray:
        """Photograph of each keypoint, int64, shape (T,)."""
        return np.repeat(np.arange(len(self)), self.counts)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return int(self.points.nbytes + self.descriptors.nbytes + self.offsets.nbytes)

    def of(self, row: int) -> LocalFeatures:
        """Return the features of one photograph."""
        part = slice(int(self.offsets[row]), int(self.offsets[row + 1]))
        return LocalFeatures(self.points[part].astype(np.float32), self.descriptors[part])

    def subset(self, rows: np.ndarray | Sequence[int]) -> LocalFeatureStore:
        """Return the features of these photographs, in this order."""
        rows = np.asarray(rows, dtype=np.int64)
        counts = self.counts[rows]
        offsets = _offsets(counts)
        places = np.repeat(self.offsets[rows] - offsets[:-1], counts) + np.arange(offsets[-1])
        return LocalFeatureStore(self.kind, self.points[places], self.descriptors[places], offsets)

    def strongest(self, most: int) -> LocalFeatureStore:
        """Return the features with at most `most` keypoints per photograph, the strongest ones."""
        rank = np.arange(len(self.points)) - np.repeat(self.offsets[:-1], self.counts)
        kept = rank < most
        offsets = _offsets(np.minimum(self.counts, most))
        return LocalFeatureStore(self.kind, self.points[kept], self.descriptors[kept], offsets)

    def save(self, path: Path) -> None:
        """Write the features as one .npz file, atomically."""
        with replaced_atomically(path) as draft, draft.open("wb") as stream:
            np.savez(stream, kind=np.array(self.kind), **{name: getattr(self, name) for name in FEATURE_ARRAYS})


def join_features(features: Iterable[LocalFeatures], kind: str) -> LocalFeatureStore:
    """Return the features of several photographs as one store.

    Args:
        features: Features of each photograph, all of one kind.
        kind: `sift` or `orb`.
    """
    kept = list(features)
    empty = np.zeros((0, descriptor_size(kind)), np.uint8)
    points = np.concatenate([np.zeros((0, 2), np.float16), *(one.points.astype(np.float16) for one in kept)])
    descriptors = np.concatenate([empty, *(one.descriptors for one in kept)])
    return LocalFeatureStore(kind, points, descriptors, _offsets(np.array([len(one) for one in kept], np.int64)))


def join_stores(first: LocalFeatureStore, second: LocalFeatureStore) -> LocalFeatureStore:
    """Return the photographs of two stores of one kind, those of `second` after those of `first`."""
    offsets = np.concatenate([first.offsets, second.offsets[1:] + first.offsets[-1]])
    points, descriptors = (
        np.concatenate([getattr(first, name), getattr(second, name)]) for name in ("points", "descriptors")
    )
    return LocalFeatureStore(first.kind, points, descriptors, offsets)


def load_features(path: Path) -> LocalFeatureStore:
    """Read a file of `LocalFeatureStore.save`.

    Raises:
        DataError: If the file is missing, damaged or has other arrays.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            store = LocalFeatureStore(str(arrays["kind"]), *(arrays[name] for name in FEATURE_ARRAYS))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"local features are read from an .npz file of whale_ray, but {path}: {reason}. Compute them again"
        ) from error
    if fault := _fault(store):
        raise DataError(f"local features have arrays that fit together, but in {path} {fault}. Compute them again")
    return store


def _fault(store: LocalFeatureStore) -> str | None:
    if not is_local_kind(store.kind):
        return f"the kind is {store.kind!r}"
    total = len(store.points)
    expected = {
        "points": (np.float16, (total, 2)),
        "descriptors": (np.uint8, (total, descriptor_size(store.kind))),
        "offsets": (np.int64, (len(store.offsets),) if store.offsets.ndim else ()),
    }
    for name, (dtype, shape) in expected.items():
        array = getattr(store, name)
        if array.dtype != dtype or array.shape != shape:
            return f"{name} is {array.dtype} of shape {array.shape}"
    offsets = store.offsets
    if not len(offsets) or offsets[0] != 0 or offsets[-1] != total or (np.diff(offsets) < 0).any():
        return f"offsets do not divide {total} keypoints"
    return None


def _offsets(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
