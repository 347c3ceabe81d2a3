"""Drawn pictures with keypoints for the tests of local features."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from whale_ray.retrieval.local.feature_store import LocalFeatureStore, join_features, join_stores
from whale_ray.retrieval.local.local_features import LocalFeatures, extract_features, local_picture, no_features


def draw_animal(seed: int, *, size: tuple[int, int] = (240, 160), degrees: float = 0.0) -> Image.Image:
    """A pattern of blobs that is the same for one seed, turned by some degrees."""
    numbers = np.random.default_rng(seed)
    image = Image.new("RGB", size, (90, 110, 130))
    draw = ImageDraw.Draw(image)
    for _ in range(60):
        x, y = numbers.integers(0, size[0]), numbers.integers(0, size[1])
        width, height = numbers.integers(4, 22, 2)
        draw.ellipse((x, y, x + width, y + height), fill=tuple(numbers.integers(0, 256, 3).tolist()))
    return image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=(90, 110, 130))


def features_of(image: Image.Image, kind: str = "sift") -> LocalFeatures:
    return extract_features(local_picture(image), kind)


def gallery_of(*seeds: int, kind: str = "sift", degrees: float = 0.0) -> LocalFeatureStore:
    return join_features([features_of(draw_animal(seed, degrees=degrees), kind) for seed in seeds], kind)


def store_of_animals() -> LocalFeatureStore:
    """Rows 0 to 3 are a gallery of the animals 1 to 4; 4 to 6 are queries: animals 3 and 1, and nothing."""
    turned = [features_of(draw_animal(seed, degrees=12)) for seed in (3, 1)]
    return join_stores(gallery_of(1, 2, 3, 4), join_features([*turned, no_features("sift")], "sift"))


def random_features(count: int, *, seed: int, size: int = 128) -> LocalFeatures:
    """Features with random descriptors, which no two pictures share."""
    numbers = np.random.default_rng(seed)
    points = numbers.random((count, 2)).astype(np.float16).astype(np.float32)
    return LocalFeatures(points, numbers.integers(0, 90, (count, size)).astype(np.uint8))
