"""Small versions of a photograph from one reduction, beside those of the full image."""

from __future__ import annotations

import imagehash
import numpy as np
import pytest
from PIL import Image

from whale_ray.data.decoding.reduced_versions import SmallImages
from whale_ray.data.near_duplicates import shrink_to_grey

SIZES = [(80, 60), (640, 360), (1050, 600), (600, 1050), (3000, 40), (1001, 667)]


def drawn(size: tuple[int, int]) -> Image.Image:
    """Return an image with large and small structure."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (6, 9, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noise = random.integers(-30, 31, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("size", SIZES)
def test_grey_images_are_those_of_the_full_image(size: tuple[int, int]) -> None:
    image = drawn(size)
    small = SmallImages(image)
    grey, expected = small.grey().astype(int), shrink_to_grey(image).astype(int)
    assert grey.shape == expected.shape
    assert np.abs(grey - expected).mean() < 2.5
    full = np.asarray(image.convert("L").resize((16, 16), Image.Resampling.BOX)).astype(int)
    assert np.abs(small.square() - full).mean() < 2.5


@pytest.mark.parametrize("size", SIZES)
def test_the_perceptual_hash_is_that_of_imagehash(size: tuple[int, int]) -> None:
    image = drawn(size)
    found = int(SmallImages(image).perceptual_hash(), 16)
    assert (found ^ int(str(imagehash.phash(image)), 16)).bit_count() <= 6
    exact = Image.fromarray(np.asarray(image.convert("L").resize((64, 64), Image.Resampling.BILINEAR)))
    assert SmallImages(exact.convert("RGB")).perceptual_hash() == str(imagehash.phash(exact))


def test_a_photograph_and_its_smaller_copy_have_near_reduced_versions() -> None:
    image = drawn((1050, 600))
    copy = SmallImages(image.resize((700, 400), Image.Resampling.LANCZOS))
    assert np.abs(SmallImages(image).square().astype(int) - copy.square()).mean() < 1
