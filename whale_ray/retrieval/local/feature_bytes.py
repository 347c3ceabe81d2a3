"""Local features of one photograph as bytes, for databases and other processes."""

from __future__ import annotations

import numpy as np

from whale_ray.errors import DataError
from whale_ray.retrieval.local.local_features import LocalFeatures, descriptor_size, no_features

_POINT_BYTES = 4  # x and y as float16


def keypoint_bytes(kind: str) -> int:
    """Return the bytes of one keypoint: 132 for `sift`; 36 for `orb`, whose descriptors are written as bits.

    Raises:
        InputError: If the kind is unknown.
    """
    return _POINT_BYTES + (descriptor_size(kind) // 8 if kind == "orb" else descriptor_size(kind))


def pack_features(features: LocalFeatures, kind: str) -> bytes:
    """Return the features as bytes: all points, then all descriptors. Nothing is lost: points are float16 values.

    Args:
        features: Features of one photograph.
        kind: `sift` or `orb`.
    """
    descriptors = np.packbits(features.descriptors, axis=1) if kind == "orb" else features.descriptors
    return features.points.astype("<f2").tobytes() + descriptors.tobytes()


def unpack_features(data: bytes | memoryview, kind: str) -> LocalFeatures:
    """Return the features that `pack_features` wrote.

    Args:
        data: The bytes.
        kind: `sift` or `orb`.

    Raises:
        DataError: If the bytes are no features of this kind.
    """
    count, rest = divmod(len(data), keypoint_bytes(kind))
    points = np.frombuffer(data, "<f2", 2 * count).reshape(count, 2).astype(np.float32)
    if rest or not (np.abs(points) <= 1.0).all():
        raise DataError(
            f"{kind} features have {keypoint_bytes(kind)} bytes a keypoint and points within 0 and 1, but {len(data)} "
            "bytes of another form came. Compute them again"
        )
    if not count:
        return no_features(kind)
    descriptors = np.frombuffer(data, np.uint8, offset=_POINT_BYTES * count).reshape(count, -1)
    return LocalFeatures(points, np.unpackbits(descriptors, axis=1) if kind == "orb" else descriptors)
