"""Small versions of a decoded photograph, all from one reduction: grey images, perceptual hash and thumbnail.

Resampling and conversion of the full photograph for each of them take as long as its decoding.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from whale_ray.data.decoding.thumbnails import THUMBNAIL_SIDE
from whale_ray.data.near_duplicates import shrink_to_grey

SMALL_SIDE = 16
"""Pixels of each side of `SmallImages.square`."""
_LONGER, _SHORTER = 2 * THUMBNAIL_SIDE, 64  # pixels that a reduction leaves at least, where the photograph has them
_HASHED, _FREQUENCIES = 32, 8  # pixels of each side of the transformed image, and of the lowest frequencies of it
_COSINES = np.cos(np.pi * np.outer(np.arange(_FREQUENCIES), 2 * np.arange(_HASHED) + 1) / (2 * _HASHED))


class SmallImages:
    """Small versions of an image.

    Args:
        image: The upright RGB image.

    Attributes:
        reduced: The image reduced by a whole factor (mean of pixels), at least 320 pixels on the longer side and 64 on
            the shorter one; the image itself if it is not twice as large.
    """

    def __init__(self, image: Image.Image) -> None:
        factor = max(1, min(max(image.size) // _LONGER, min(image.size) // _SHORTER))
        self.reduced = image.reduce(factor) if factor > 1 else image
        self._grey = self.reduced.convert("L")
        self._extent = (0.0, 0.0, image.width / factor, image.height / factor)

    def grey(self) -> np.ndarray:
        """Return the image in grey with its aspect ratio, uint8, longer side 64 pixels, as `shrink_to_grey` does."""
        return shrink_to_grey(self._grey, box=self._extent)

    def square(self) -> np.ndarray:
        """Return the whole image in grey, uint8, shape (16, 16)."""
        return np.asarray(self._grey.resize((SMALL_SIDE, SMALL_SIDE), Image.Resampling.BOX, box=self._extent))

    def perceptual_hash(self) -> str:
        """Return the perceptual hash, 16 hex digits: which of the lowest frequencies lie above their median.

        Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010, section 3.2; bit for bit the
        `phash` of the package imagehash, of an image reduced to 64 x 64 pixels.
        """
        side = 2 * _HASHED
        square = self._grey.resize((side, side), Image.Resampling.BILINEAR, box=self._extent, reducing_gap=2.0)
        pixels = np.asarray(square.resize((_HASHED, _HASHED), Image.Resampling.LANCZOS), dtype=np.float64)
        frequencies = _COSINES @ pixels @ _COSINES.T
        bits = np.packbits(frequencies > np.median(frequencies))
        return bits.tobytes().hex()
