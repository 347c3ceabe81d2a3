"""JPEG pictures of the review page: photographs, and pairs with the lines of their matched keypoints."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from whale_ray.data.catalog import Catalog
from whale_ray.data.decoding.thumbnails import shrink_to_jpeg
from whale_ray.data.image_io import crop_to_box
from whale_ray.errors import DataError, ImageError
from whale_ray.retrieval.local.local_features import LocalFeatures, extract_features, local_picture
from whale_ray.retrieval.local.match_drawing import draw_matches
from whale_ray.retrieval.local.verification import verify

LARGE, SMALL = 1024, 192
"""Longer side of a large picture and of a thumbnail, in pixels."""
_KIND = "sift"


class PairPictures:
    """Pictures by row; recent ones are kept in memory.

    Args:
        catalog: The photographs.
        images: Name of the photograph of each row.
    """

    def __init__(self, catalog: Catalog, images: list[str]) -> None:
        self._catalog, self._images = catalog, images
        self.photograph = lru_cache(maxsize=512)(self._photograph)
        self.matches = lru_cache(maxsize=128)(self._matches)
        self._features = lru_cache(maxsize=256)(self._extracted)

    def __len__(self) -> int:
        return len(self._images)

    def _photograph(self, row: int, side: int) -> bytes:
        """Return a photograph, cropped to its box, as JPEG; a grey picture if it cannot be decoded any more.

        Args:
            row: Row of the photograph.
            side: Longer side in pixels; smaller photographs are not enlarged.
        """
        try:
            image = self._crop(row)
        except (ImageError, DataError, OSError):
            image = Image.new("RGB", (side, side // 2), (127, 127, 127))
            ImageDraw.Draw(image).text((8, 8), "cannot be decoded", fill=(255, 255, 255))
        return shrink_to_jpeg(image, side=side)

    def _matches(self, first: int, second: int) -> tuple[bytes, int]:
        """Return both photographs as JPEG, joined by a line for each inlier, and the number of inliers.

        Args:
            first: Row of the photograph on the left.
            second: Row of the photograph on the right.

        Raises:
            ImageError: If a photograph cannot be decoded any more.
        """
        (picture, features), (other, other_features) = self._features(first), self._features(second)
        verified = verify(features, other_features)
        return draw_matches(picture, other, verified, side=480), verified.inliers

    def _extracted(self, row: int) -> tuple[np.ndarray, LocalFeatures]:
        name = self._images[row]
        picture = local_picture(self._catalog.decode(name), box=self._catalog.box(name))
        return picture, extract_features(picture, _KIND)

    def _crop(self, row: int) -> Image.Image:
        name = self._images[row]
        return crop_to_box(self._catalog.decode(name), self._catalog.box(name))
