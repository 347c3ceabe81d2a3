"""Local features as bytes: what is written is read again, and other bytes are refused."""

from __future__ import annotations

import numpy as np
import pytest

from whale_ray.errors import DataError, InputError
from whale_ray.retrieval.local.feature_bytes import keypoint_bytes, pack_features, unpack_features
from whale_ray.retrieval.local.local_features import LOCAL_KINDS, LocalFeatures, descriptor_size, no_features


def features(kind: str, count: int) -> LocalFeatures:
    numbers = np.random.default_rng(0)
    points = numbers.random((count, 2), np.float32).astype(np.float16).astype(np.float32)
    most = 2 if kind == "orb" else 256
    return LocalFeatures(points, numbers.integers(0, most, (count, descriptor_size(kind)), np.uint8))


@pytest.mark.parametrize("kind", LOCAL_KINDS)
@pytest.mark.parametrize("count", [0, 1, 500])
def test_packed_features_are_read_again(kind: str, count: int) -> None:
    expected = features(kind, count)
    packed = pack_features(expected, kind)
    assert len(packed) == count * keypoint_bytes(kind)
    found = unpack_features(packed, kind)
    for name in ("points", "descriptors"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert getattr(found, name).dtype == getattr(expected, name).dtype


def test_a_photograph_without_keypoints_takes_no_bytes() -> None:
    assert pack_features(no_features("sift"), "sift") == b""


@pytest.mark.parametrize("kind", LOCAL_KINDS)
@pytest.mark.parametrize("fault", ["cut", "longer", "not a number", "far outside"])
def test_other_bytes_are_refused(kind: str, fault: str) -> None:
    packed = pack_features(features(kind, 3), kind)
    number = np.array([np.nan if fault == "not a number" else 1e4], "<f2").tobytes()
    wrong = {"cut": packed[:-1], "longer": packed + b"x"}.get(fault, number + packed[2:])
    with pytest.raises(DataError, match=f"{kind} features have {keypoint_bytes(kind)} bytes a keypoint"):
        unpack_features(wrong, kind)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(InputError, match="one of sift, orb or of a network, but got 'surf'"):
        keypoint_bytes("surf")
