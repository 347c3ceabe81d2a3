"""Geometric verification of a pair of photographs."""

from __future__ import annotations

import io

import numpy as np
import pytest
from pictures import draw_animal, features_of, random_features
from PIL import Image

from whale_ray.retrieval.local.local_features import LocalFeatures, local_picture, no_features
from whale_ray.retrieval.local.match_drawing import draw_matches
from whale_ray.retrieval.local.verification import match_descriptors, verify


@pytest.mark.parametrize("kind", ["sift", "orb"])
def test_inliers_tell_the_same_animal_from_another(kind: str) -> None:
    query = features_of(draw_animal(3, degrees=12), kind)
    same, other = (verify(query, features_of(draw_animal(seed), kind)) for seed in (3, 4))
    assert same.inliers > 20
    assert same.inliers > 3 * other.inliers
    assert same.matches.shape == (same.inliers, 2, 2)
    assert same.tentative >= same.inliers


def test_inliers_follow_the_planted_transformation() -> None:
    original = random_features(60, seed=0)
    turned = original.points @ np.array([[0.5, 0.2], [-0.2, 0.5]], np.float32) + 0.3
    turned[:20] = random_features(20, seed=1).points
    verified = verify(original, LocalFeatures(turned.astype(np.float32), original.descriptors))
    assert 40 <= verified.inliers <= 46
    expected = verified.matches[:, 0] @ np.array([[0.5, 0.2], [-0.2, 0.5]]) + 0.3
    assert np.abs(expected - verified.matches[:, 1]).max() < 0.08


@pytest.mark.parametrize(
    "matrix", [[[-1, 0], [0, 1]], [[0.2, 0], [0, 0.2]], [[1, 0], [0, 0.3]]], ids=["mirrored", "shrunk", "stretched"]
)
def test_an_implausible_transformation_has_no_inliers(matrix: list[list[float]]) -> None:
    original = random_features(60, seed=0)
    moved = (original.points - 0.5) @ np.array(matrix, np.float32) + 0.5
    assert verify(original, LocalFeatures(moved, original.descriptors)).inliers == 0
    plain = verify(original, original)
    assert plain.inliers == 60


def test_verification_is_deterministic() -> None:
    query, other = features_of(draw_animal(3, degrees=25)), features_of(draw_animal(3))
    np.testing.assert_array_equal(verify(query, other).matches, verify(query, other).matches)


def test_matches_are_mutual_and_pass_the_ratio_test() -> None:
    query = np.array([[0, 0], [100, 0], [50, 50]], np.uint8)
    candidate = np.array([[2, 0], [101, 0], [99, 0], [0, 200]], np.uint8)
    assert match_descriptors(query, candidate).tolist() == [[0, 0]]


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_photographs_with_few_keypoints_have_no_inliers(count: int) -> None:
    few, many = random_features(count, seed=0), random_features(50, seed=1)
    for pair in ((few, many), (many, few), (few, few), (few, no_features("sift"))):
        assert verify(*pair).inliers == 0
        assert verify(*pair).matches.shape == (0, 2, 2)


def test_keypoints_at_one_place_have_no_trace() -> None:
    some = random_features(30, seed=0)
    stacked = LocalFeatures(np.full_like(some.points, 0.5), some.descriptors)
    for pair in ((stacked, stacked), (stacked, some), (some, stacked)):
        assert 0 <= verify(*pair).inliers <= 30


def test_the_drawing_joins_the_inliers_of_both_photographs() -> None:
    pictures = [local_picture(draw_animal(3, degrees=degrees)) for degrees in (12, 0)]
    query, candidate = features_of(draw_animal(3, degrees=12)), features_of(draw_animal(3))
    drawn, plain = (
        np.asarray(Image.open(io.BytesIO(draw_matches(*pictures, verified, side=200))), dtype=int)
        for verified in (verify(query, candidate), verify(query, no_features("sift")))
    )
    assert drawn.shape == plain.shape == (133, 2 * 200 + 8, 3)
    changed = np.abs(drawn - plain).max(axis=2) > 60
    assert changed[:, :200].any()
    assert changed[:, 208:].any()
    assert changed[:, 202:206].any()
