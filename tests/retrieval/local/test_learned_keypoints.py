"""Keypoints of a network in an ONNX file: found, quantized, named by kind, and refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from keypoint_networks import STRIDE, write_network
from pictures import draw_animal

from whale_ray.errors import InputError
from whale_ray.retrieval.local.feature_bytes import keypoint_bytes, pack_features, unpack_features
from whale_ray.retrieval.local.feature_store import join_features, load_features
from whale_ray.retrieval.local.learned.keypoint_network import KeypointNetwork, quantize_descriptors
from whale_ray.retrieval.local.learned.network_registry import kind_of, network_file, network_of, register_network
from whale_ray.retrieval.local.local_features import descriptor_size, extract_features, is_local_kind, local_picture
from whale_ray.retrieval.local.local_index import LocalIndex
from whale_ray.retrieval.local.verification import verify


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_network(tmp_path_factory.mktemp("networks") / "grid.onnx")


@pytest.fixture(scope="module")
def kind(network: Path) -> str:
    return register_network(network)


def test_a_kind_names_the_size_of_descriptors_and_the_file(network: Path, kind: str, tmp_path: Path) -> None:
    assert kind.startswith("onnx32-")
    assert (descriptor_size(kind), is_local_kind(kind), len(kind) <= 16) == (32, True, True)
    assert (kind_of(str(network)), kind_of(kind), kind_of("sift")) == (kind, kind, "sift")
    assert network_file(kind).read_bytes() == network.read_bytes()  # any registered copy
    copied = tmp_path / "other_name.onnx"
    copied.write_bytes(network.read_bytes())
    assert register_network(copied) == kind
    assert register_network(write_network(tmp_path / "seed.onnx", seed=1)) != kind


def test_keypoints_are_the_strongest_in_shares_of_the_picture(kind: str) -> None:
    picture = local_picture(draw_animal(1))
    features = extract_features(picture, kind, most=40)
    assert features.points.shape == (40, 2)
    assert features.descriptors.shape == (40, 32)
    places = features.points * picture.shape[1::-1]
    np.testing.assert_allclose((places - STRIDE / 2) / STRIDE, np.rint((places - STRIDE / 2) / STRIDE), atol=0.05)
    everything = extract_features(picture, kind, most=10_000)
    assert len(everything) == (picture.shape[0] // STRIDE) * (picture.shape[1] // STRIDE)
    np.testing.assert_array_equal(everything.points[:40], features.points)


def test_points_beyond_the_picture_are_left_out(kind: str) -> None:
    picture = local_picture(draw_animal(1, size=(240, 151)))
    assert picture.shape[0] % 32
    points = extract_features(picture, kind, most=10_000).points
    assert points.max() <= 1.0
    assert points[:, 1].max() > 0.95


@pytest.mark.parametrize("options", [{"sides": (96, 128)}, {"channels": 1}, {"half": True}, {"size": 256}], ids=str)
def test_networks_of_other_inputs_find_keypoints(tmp_path: Path, options: dict[str, object]) -> None:
    kind = register_network(write_network(tmp_path / "other.onnx", **options))  # type: ignore[arg-type]
    features = extract_features(local_picture(draw_animal(1)), kind)
    assert len(features) > 100
    assert features.points.max() > 0.9
    assert features.descriptors.std() > 10


def test_points_from_minus_one_to_one_are_those_in_pixels(tmp_path: Path) -> None:
    picture = local_picture(draw_animal(1))
    found = [
        KeypointNetwork(write_network(tmp_path / f"{given}.onnx", sides=(96, 128), normalized=given)).find(picture, 500)
        for given in (False, True)
    ]
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-6)


def test_descriptors_are_bytes_whose_distances_are_those_of_unit_vectors() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 128)) * 7
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    stored = quantize_descriptors(vectors).astype(np.float64)
    distances = np.linalg.norm(stored[:, None] - stored, axis=2) / 255
    np.testing.assert_allclose(distances, np.linalg.norm(units[:, None] - units, axis=2), atol=0.02)
    assert quantize_descriptors(np.zeros((1, 8))).tolist() == [[128] * 8]


def test_the_same_picture_matches_itself_best(kind: str) -> None:
    features = [extract_features(local_picture(draw_animal(seed)), kind) for seed in (1, 2, 3)]
    index = LocalIndex(join_features(features, kind), ["a", "b", "c"])
    assert index.image_scores(features[1]).argmax() == 1
    assert verify(features[1], features[1]).inliers > 50


def test_a_picture_of_one_color_has_no_keypoints(kind: str) -> None:
    features = extract_features(np.full((64, 96, 3), 90, np.uint8), kind)
    assert (features.points.shape, features.descriptors.shape) == ((0, 2), (0, 32))


def test_features_are_stored_and_packed(kind: str, tmp_path: Path) -> None:
    features = extract_features(local_picture(draw_animal(1)), kind)
    store = join_features([features], kind)
    store.save(tmp_path / "store.npz")
    assert load_features(tmp_path / "store.npz").kind == kind
    assert keypoint_bytes(kind) == 36
    again = unpack_features(pack_features(features, kind), kind)
    np.testing.assert_array_equal(again.descriptors, features.descriptors)
    np.testing.assert_array_equal(again.points, features.points)


@pytest.mark.parametrize("name", ["onnx32-00000000", "onnx8-ffffffff"])
def test_a_network_that_is_not_open_is_named(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} need the network"):
        network_of(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 4}, "8 to 256 values, but have 4"),
        ({"size": 257}, "8 to 256 values, but have 257"),
        ({"channels": 4}, "3 channels"),
        ({"drop": "scores"}, r"shapes \(1, N, 2\), \(1, N\) and \(1, N, D\)"),
        ({"drop": "descriptors"}, r"shapes \(1, N, 2\), \(1, N\) and \(1, N, D\)"),
        ({"sides": (4, 4)}, "must run on a picture"),
    ],
    ids=str,
)
def test_a_model_that_finds_no_keypoints_is_refused(tmp_path: Path, options: dict[str, object], message: str) -> None:
    path = write_network(tmp_path / "wrong.onnx", **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"(?s)wrong.onnx cannot find keypoints: .*{message}"):
        register_network(path)


@pytest.mark.parametrize("content", [None, b"", b"no model"])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "wrong.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"wrong.onnx cannot find keypoints: it must be an ONNX"):
        register_network(path)
