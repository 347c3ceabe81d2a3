"""Compact arrays of local features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pictures import gallery_of, random_features

from whale_ray.errors import DataError
from whale_ray.retrieval.local.feature_store import join_features, join_stores, load_features
from whale_ray.retrieval.local.local_features import no_features


def test_features_come_back_as_they_were_extracted() -> None:
    kept = [random_features(5, seed=0), no_features("sift"), random_features(3, seed=1)]
    store = join_features(kept, "sift")
    assert len(store) == 3
    assert store.counts.tolist() == [5, 0, 3]
    assert store.owners.tolist() == [0, 0, 0, 0, 0, 2, 2, 2]
    for row, one in enumerate(kept):
        np.testing.assert_array_equal(store.of(row).points, one.points)
        np.testing.assert_array_equal(store.of(row).descriptors, one.descriptors)


def test_a_subset_has_its_photographs_in_the_given_order() -> None:
    store = join_features([random_features(count, seed=count) for count in (4, 2, 7)], "sift")
    part = store.subset([2, 0, 2])
    assert part.counts.tolist() == [7, 4, 7]
    np.testing.assert_array_equal(part.of(1).descriptors, store.of(0).descriptors)
    assert len(store.subset([])) == 0


def test_joined_stores_equal_the_store_of_all_photographs() -> None:
    kept = [random_features(count, seed=count) for count in (4, 2, 7)]
    joined = join_stores(join_features(kept[:1], "sift"), join_features(kept[1:], "sift"))
    np.testing.assert_array_equal(joined.offsets, join_features(kept, "sift").offsets)
    np.testing.assert_array_equal(joined.descriptors, join_features(kept, "sift").descriptors)


@pytest.mark.parametrize("kind", ["sift", "orb"])
def test_a_saved_store_is_read_as_it_was(kind: str, tmp_path: Path) -> None:
    store = gallery_of(1, 2, kind=kind)
    store.save(tmp_path / "local.npz")
    read = load_features(tmp_path / "local.npz")
    assert read.kind == kind
    for name in ("points", "descriptors", "offsets"):
        np.testing.assert_array_equal(getattr(read, name), getattr(store, name))


@pytest.mark.parametrize("most", [1, 3, 9])
def test_the_strongest_keypoints_are_the_first_of_each_photograph(most: int) -> None:
    features = [random_features(count, seed=count) for count in (5, 0, 2, 3)]
    kept = join_features(features, "sift").strongest(most)
    assert list(kept.counts) == [min(count, most) for count in (5, 0, 2, 3)]
    for row, whole in enumerate(features):
        np.testing.assert_array_equal(kept.of(row).descriptors, whole.descriptors[:most])


def test_a_keypoint_takes_132_bytes() -> None:
    store = join_features([random_features(100, seed=0)], "sift")
    assert store.nbytes == 100 * 132 + 2 * 8


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "cut", "no array", "kind", "shape", "offsets", "dtype"])
def test_a_damaged_file_is_a_data_error(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "local.npz"
    arrays = {"kind": np.array("sift"), "points": np.zeros((2, 2), np.float16)}
    arrays |= {"descriptors": np.zeros((2, 128), np.uint8), "offsets": np.array([0, 1, 2])}
    changes = {
        "kind": {"kind": np.array("surf")},
        "shape": {"descriptors": np.zeros((2, 64), np.uint8)},
        "offsets": {"offsets": np.array([0, 3, 2])},
        "dtype": {"points": np.zeros((2, 2))},
    }
    arrays |= changes.get(damage, {})
    if damage == "no array":
        del arrays["offsets"]
    if damage != "missing":
        np.savez(path, **arrays)
    if damage in ("empty", "text", "cut"):
        path.write_bytes({"empty": b"", "text": b"Image,Id\n", "cut": path.read_bytes()[:200]}[damage])
    with pytest.raises(DataError, match=r"local\.npz"):
        load_features(path)
