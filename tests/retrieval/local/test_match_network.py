"""Match networks in ONNX files: their matches, their kinds, the evidence that they give, and files that are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from keypoint_networks import write_matcher, write_network
from pictures import draw_animal

from whale_ray.errors import InputError
from whale_ray.retrieval.local.evidence import LocalEvidence, compare_features, gather_evidence
from whale_ray.retrieval.local.evidence_files import cached_evidence
from whale_ray.retrieval.local.feature_store import LocalFeatureStore, join_features
from whale_ray.retrieval.local.learned.keypoint_network import quantize_descriptors
from whale_ray.retrieval.local.learned.match_network import MATCHED, MatchNetwork
from whale_ray.retrieval.local.learned.network_registry import (
    features_kind,
    kind_of,
    matcher_file,
    matcher_of,
    network_file,
    network_files,
    network_of,
    register_network,
)
from whale_ray.retrieval.local.local_features import LocalFeatures, extract_features, is_local_kind, local_picture
from whale_ray.retrieval.local.local_index import LocalIndex
from whale_ray.retrieval.local.shortlists import compare_shortlists
from whale_ray.retrieval.local.verification import verify


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("networks")
    return write_network(folder / "grid.onnx", seed=7), write_matcher(folder / "glue.onnx")


@pytest.fixture(scope="module")
def kind(files: tuple[Path, Path]) -> str:
    return register_network(*files)


@pytest.fixture(scope="module")
def matcher(kind: str) -> MatchNetwork:
    network = matcher_of(kind)
    assert network is not None
    return network


@pytest.fixture(scope="module")
def features(kind: str) -> list[LocalFeatures]:
    pictures = [local_picture(draw_animal(seed)) for seed in range(1, 9)]
    return [extract_features(one, features_kind(kind), most=60) for one in pictures]


@pytest.fixture(scope="module")
def store(features: list[LocalFeatures], kind: str) -> LocalFeatureStore:
    return join_features(features, features_kind(kind))


def match(matcher: MatchNetwork, first: LocalFeatures, second: LocalFeatures) -> tuple[np.ndarray, np.ndarray]:
    return matcher.match(first.points, second.points, first.descriptors, second.descriptors)


def test_a_kind_names_both_files(files: tuple[Path, Path], kind: str, tmp_path: Path) -> None:
    text = "+".join(map(str, files))
    assert network_files(text) == [*files]
    assert network_files("a+b.onnx") == [Path("a+b.onnx")]
    assert (kind_of(text), kind_of(kind)) == (kind, kind)
    alone = kind_of(str(files[0]))
    assert (features_kind(kind), kind.startswith(f"{alone}+"), len(kind)) == (alone, True, len(alone) + 9)
    assert (is_local_kind(alone), is_local_kind(kind)) == (True, False)
    assert (network_file(kind), matcher_file(kind), matcher_file(alone)) == (*files, None)
    assert network_of(kind) is network_of(alone)
    assert (matcher_of(alone), matcher_of("sift")) == (None, None)
    assert register_network(files[0], write_matcher(tmp_path / "other.onnx", seed=1)) not in (kind, alone)


@pytest.mark.parametrize("options", [{}, {"assigned": True}, {"half": True}], ids=str)
def test_matches_are_those_of_the_model_in_both_forms(tmp_path: Path, options: dict[str, bool]) -> None:
    numbers = np.random.default_rng(0)
    units = numbers.normal(size=(12, 32))
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    order = numbers.permutation(12)[:9]
    stored = quantize_descriptors(units)
    first, second = (LocalFeatures(numbers.random((len(one), 2), np.float32), one) for one in (stored, stored[order]))
    path = write_matcher(tmp_path / "glue.onnx", **options)  # type: ignore[arg-type]
    pairs, confidences = match(MatchNetwork(path, size=32, name="glue", digest=""), first, second)
    expected = [[place, column] for column, place in enumerate(order)]
    assert pairs.tolist() == sorted(expected)
    np.testing.assert_allclose(confidences, 0.5, atol=2e-3)
    np.testing.assert_array_equal(confidences, np.round(confidences, 3))


@pytest.mark.parametrize("empty", [(True, False), (False, True), (True, True)])
def test_photographs_without_keypoints_have_no_matches(
    matcher: MatchNetwork, features: list[LocalFeatures], empty: tuple[bool, bool]
) -> None:
    nothing = LocalFeatures(np.zeros((0, 2), np.float32), np.zeros((0, 32), np.uint8))
    pair = [nothing if is_empty else one for is_empty, one in zip(empty, features, strict=False)]
    verified = verify(pair[0], pair[1], matcher=matcher)
    assert (verified.inliers, verified.tentative, verified.confidence) == (0, 0, 0.0)


def test_a_photograph_matches_itself_with_all_keypoints(matcher: MatchNetwork, features: list[LocalFeatures]) -> None:
    verified = verify(features[2], features[2], matcher=matcher)
    assert verified.inliers == verified.tentative >= 50  # two keypoints may have equal descriptors
    assert verified.confidence == pytest.approx(verified.tentative / 2, abs=0.1)


def test_the_leading_photographs_alone_are_matched(
    matcher: MatchNetwork, features: list[LocalFeatures], store: LocalFeatureStore
) -> None:
    index = LocalIndex(store, list("aabbccdd"))
    found = compare_features(features, index, matcher=matcher)
    assert found.confidences is not None
    for row in range(len(features)):
        leading = np.argsort(-found.scores[row], kind="stable")[:MATCHED]
        expected = np.zeros((2, len(features)), np.float32)
        for place in leading[found.scores[row, leading] > 0]:
            one = verify(features[row], features[place], matcher=matcher)
            expected[:, place] = one.inliers, one.confidence
        np.testing.assert_array_equal([found.inliers[row], found.confidences[row]], expected)
    plain = compare_features(features, index)
    assert plain.confidences is None
    np.testing.assert_array_equal(plain.scores, found.scores)
    (again,) = compare_features(features[3:4], index, matcher=matcher).confidences  # type: ignore[misc]
    np.testing.assert_array_equal(again, found.confidences[3])


def test_a_shortlist_of_the_whole_gallery_gives_the_same_evidence(
    matcher: MatchNetwork, features: list[LocalFeatures], store: LocalFeatureStore
) -> None:
    index = LocalIndex(store, list("aabbccdd"))
    whole = compare_features(features[:2], index, matcher=matcher).of_queries(np.array([1]))
    everything = np.tile(np.arange(len(features)), (2, 1))
    short = compare_shortlists(features[:2], index, everything, matcher=matcher).of_queries(np.array([1]))
    for name, values in whole.arrays().items():
        np.testing.assert_array_equal(short.arrays()[name], values)


def test_evidence_of_another_matcher_is_gathered_again(
    matcher: MatchNetwork, store: LocalFeatureStore, tmp_path: Path
) -> None:
    other = MatchNetwork(write_matcher(tmp_path / "o.onnx", seed=1), size=32, name="other", digest="other")
    rows, names = range(len(store)), list("aabbccdd")

    def cached(network: MatchNetwork | None) -> LocalEvidence:
        return cached_evidence(store, rows, rows, names, cache=tmp_path, matcher=network)

    expected = gather_evidence(store, rows, rows, names, matcher=matcher).arrays()
    for count, network in ((1, matcher), (1, matcher), (2, other), (3, None)):
        found = cached(network).arrays()
        assert len([*tmp_path.glob("evidence-*.npz")]) == count
        assert ("confidences" in found) == (network is not None)
        for name, values in found.items():
            if name != "inliers":
                np.testing.assert_array_equal(values, expected[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 16}, "match descriptors of 32 values"),
        ({"drop": "mscores0"}, r"pairs \(K, 2\) and confidences \(K,\)"),
        ({"drop": "matches0"}, r"pairs \(K, 2\) and confidences \(K,\)"),
    ],
    ids=str,
)
def test_a_model_that_matches_no_keypoints_of_the_network_is_refused(
    files: tuple[Path, Path], tmp_path: Path, options: dict[str, object], message: str
) -> None:
    path = write_matcher(tmp_path / "wrong.onnx", **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"(?s)wrong.onnx cannot match keypoints: .*{message}"):
        kind_of(f"{files[0]}+{path}")


@pytest.mark.parametrize("content", [None, b"", b"no model", "network"])
def test_a_file_that_is_no_matcher_is_refused(
    files: tuple[Path, Path], tmp_path: Path, content: bytes | str | None
) -> None:
    path = tmp_path / "wrong.onnx"
    if content is not None:
        path.write_bytes(files[0].read_bytes() if isinstance(content, str) else content)
    with pytest.raises(InputError, match=r"wrong.onnx cannot match keypoints: it must (be an ONNX|have four inputs)"):
        kind_of(f"{files[0]}+{path}")


def test_three_files_are_refused(files: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match="Name two files"):
        kind_of("+".join(map(str, (*files, files[1]))))


def test_a_matcher_that_is_not_open_is_named() -> None:
    with pytest.raises(InputError, match=r"onnx32-00000000\+ffffffff need the network that matches them"):
        matcher_of("onnx32-00000000+ffffffff")
