"""Local features of one photograph."""

from __future__ import annotations

import numpy as np
import pytest
from pictures import draw_animal, features_of
from PIL import Image

from whale_ray.errors import InputError
from whale_ray.retrieval.local.local_features import (
    LOCAL_KINDS,
    descriptor_size,
    extract_features,
    local_picture,
)


@pytest.mark.parametrize(
    ("size", "expected"), [((240, 160), (256, 384)), ((1000, 250), (96, 384)), ((3, 400), (384, 3))]
)
def test_the_picture_has_the_longer_side_and_the_aspect_ratio(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert local_picture(Image.new("RGB", size)).shape == (*expected, 3)


def test_keypoints_respect_the_box() -> None:
    image = draw_animal(1)
    wide = Image.new("RGB", (400, 300), (90, 110, 130))
    wide.paste(image, (60, 70))
    alone, boxed = features_of(image), extract_features(local_picture(wide, box=(60, 70, 300, 230)), "sift")
    np.testing.assert_array_equal(alone.descriptors, boxed.descriptors)
    np.testing.assert_array_equal(alone.points, boxed.points)


@pytest.mark.parametrize("kind", LOCAL_KINDS)
def test_features_have_the_stated_types_and_are_reproducible(kind: str) -> None:
    features = features_of(draw_animal(1), kind)
    assert 20 < len(features) <= 500
    assert features.points.dtype == np.float32
    assert features.points.min() >= 0
    assert features.points.max() <= 1
    assert features.descriptors.dtype == np.uint8
    assert features.descriptors.shape == (len(features), descriptor_size(kind))
    again = features_of(draw_animal(1), kind)
    np.testing.assert_array_equal(features.descriptors, again.descriptors)
    np.testing.assert_array_equal(features.points, features.points.astype(np.float16))


def test_root_sift_vectors_have_the_length_512() -> None:
    lengths = np.linalg.norm(features_of(draw_animal(1)).descriptors.astype(float), axis=1)
    np.testing.assert_allclose(lengths, 512, atol=4)


def test_the_strongest_keypoints_are_kept() -> None:
    picture = local_picture(draw_animal(1))
    few, many = extract_features(picture, "sift", most=10), extract_features(picture, "sift")
    assert len(few) == 10
    np.testing.assert_array_equal(few.points, many.points[:10])


@pytest.mark.parametrize("kind", LOCAL_KINDS)
@pytest.mark.parametrize("size", [(384, 256), (384, 1), (1, 384), (1, 1), (40, 3)])
def test_a_picture_of_one_color_has_no_features(kind: str, size: tuple[int, int]) -> None:
    features = features_of(Image.new("RGB", size, (120, 120, 120)), kind)
    assert len(features) == 0
    assert features.descriptors.shape == (0, descriptor_size(kind))


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(InputError, match="one of sift, orb or of a network, but got 'surf'"):
        extract_features(np.zeros((8, 8, 3), np.uint8), "surf")
