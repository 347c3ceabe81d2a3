"""Near-duplicates: copies differ from other photographs through crops, brightness and compression."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from whale_ray.data import near_duplicates
from whale_ray.data.near_duplicates import (
    MIN_CORRELATION,
    coarse_vectors,
    copy_correlations,
    find_copies,
    shrink_to_grey,
)


def drawn(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (9, 16, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((240, 135), Image.Resampling.BICUBIC)


def correlation(one: Image.Image, other: Image.Image) -> float:
    images = {0: shrink_to_grey(one), 1: shrink_to_grey(other)}
    return float(copy_correlations(np.array([[0, 1]]), images)[0])


def saved_again(picture: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=40)
    return Image.open(stream)


@pytest.mark.parametrize(
    "copy",
    [
        drawn(1).crop((18, 5, 232, 130)),
        ImageEnhance.Brightness(drawn(1)).enhance(0.6),
        saved_again(drawn(1)).resize((97, 55)),
        ImageEnhance.Contrast(saved_again(drawn(1).crop((10, 8, 225, 125)))).enhance(1.3),
    ],
    ids=["cropped", "darker", "smaller", "all of it"],
)
def test_a_copy_agrees_with_its_original_whichever_comes_first(copy: Image.Image) -> None:
    assert correlation(drawn(1), copy) >= MIN_CORRELATION
    assert correlation(copy, drawn(1)) == correlation(drawn(1), copy)


@pytest.mark.parametrize("other", [drawn(2), drawn(1).transpose(Image.Transpose.FLIP_LEFT_RIGHT)])
def test_a_different_image_does_not_agree(other: Image.Image) -> None:
    assert correlation(drawn(1), other) < 0.8


def test_pictures_of_one_colour_or_of_other_shape_are_no_copies() -> None:
    blank = Image.new("RGB", (240, 135), "grey")
    assert correlation(blank, blank) == -1.0
    assert correlation(drawn(1), drawn(1).crop((100, 0, 110, 135))) < MIN_CORRELATION


def test_copies_are_found_among_pairs_of_pictures_that_are_there() -> None:
    pictures = dict(enumerate(map(shrink_to_grey, [drawn(1), drawn(2), drawn(1).crop((5, 5, 235, 130))])))
    found = find_copies(np.array([[0, 1], [0, 2], [1, 2], [0, 3]]), pictures)
    assert [(one, other) for one, other, _ in found] == [(0, 2)]


def test_a_copy_lies_near_its_original_by_its_coarse_pixels_alone() -> None:
    originals = [drawn(seed) for seed in range(40)]
    copies = [ImageEnhance.Brightness(one.crop((18, 4, 225, 130))).enhance(0.8) for one in originals]
    vectors = coarse_vectors(map(shrink_to_grey, originals + copies))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors[40:] @ vectors[:40].T
    assert (cosines.argmax(axis=1) == np.arange(40)).all()


def test_without_pictures_there_are_no_coarse_vectors() -> None:
    assert len(coarse_vectors([])) == 0


def windowed_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """The largest correlation of the center of one image with any window of the other, by its definition."""
    rows, columns = (int(0.15 * side) for side in one.shape)
    center = one[rows : one.shape[0] - rows, columns : one.shape[1] - columns].astype(float).ravel()
    best = -1.0
    for scale in np.linspace(0.84, 1.2, 10):
        size = [max(1, round(side * scale)) for side in other.shape[::-1]]
        scaled = np.asarray(Image.fromarray(other).resize(size, Image.Resampling.BILINEAR), dtype=float)
        shape = (one.shape[0] - 2 * rows, one.shape[1] - 2 * columns)
        if scaled.shape[0] >= shape[0] and scaled.shape[1] >= shape[1]:
            windows = np.lib.stride_tricks.sliding_window_view(scaled, shape).reshape(-1, center.size)
            best = max(best, *(float(np.corrcoef(center, window)[0, 1]) for window in windows))
    return best


def test_the_correlation_is_that_of_the_best_window_of_both_directions() -> None:
    pictures = [drawn(1), drawn(1).crop((9, 2, 230, 133)), drawn(1).resize((135, 240))]
    images = {row: shrink_to_grey(picture) for row, picture in enumerate(pictures)}
    pairs = np.array([[0, 1], [0, 0]])
    expected = [
        max(windowed_correlation(images[one], images[other]), windowed_correlation(images[other], images[one]))
        for one, other in pairs
    ]
    assert copy_correlations(pairs, images) == pytest.approx(expected, abs=1e-4)


def test_pairs_are_judged_alike_alone_and_together() -> None:
    pictures = [drawn(seed) for seed in (1, 1, 2)] + [drawn(1).crop((5, 5, 235, 130)), drawn(1).resize((90, 120))]
    images = {row: shrink_to_grey(picture) for row, picture in enumerate(pictures)}
    pairs = np.array([(one, other) for one in range(5) for other in range(one + 1, 5)])
    together = copy_correlations(pairs, images)
    alone = [float(copy_correlations(pair[None], images)[0]) for pair in pairs]
    assert together == pytest.approx(alone, abs=1e-5)


def test_a_photograph_is_scaled_once_for_templates_of_all_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [(240, 135), (240, 160), (240, 180), (240, 200)]
    images = {row: shrink_to_grey(drawn(1).resize(size)) for row, size in enumerate(sizes)}
    prepare, prepared = near_duplicates._SearchedImage.of, []

    def recorded(image: np.ndarray) -> object:
        prepared.append(image.shape)
        return prepare(image)

    monkeypatch.setattr(near_duplicates._SearchedImage, "of", recorded)
    near_duplicates._correlate(np.array([[0, 1], [0, 2], [3, 0]]), images, progress=False)
    assert sorted(prepared) == sorted(image.shape for image in images.values())
