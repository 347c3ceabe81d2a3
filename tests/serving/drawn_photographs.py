"""Small drawn photographs, one pattern per individual, for the tests of the service."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

INDIVIDUALS = tuple(f"w_{number:02d}" for number in range(6))
IMAGES_EACH = 3


def draw(individual: int, view: int) -> Image.Image:
    """A picture of 96 x 64 pixels; the top is bright, so that it is not the same upside down."""
    rng = np.random.default_rng(individual)
    coarse = rng.uniform(0, 255, (4, 6, 3))
    coarse[0] = 255.0
    noise = np.random.default_rng(1000 + 10 * individual + view).normal(0, 4, (64, 96, 3))
    smooth = Image.fromarray(coarse.astype(np.uint8)).resize((96, 64), Image.Resampling.BICUBIC)
    return Image.fromarray(np.clip(np.asarray(smooth) + noise, 0, 255).astype(np.uint8))


def encode(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of the picture as a file of this kind."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()
