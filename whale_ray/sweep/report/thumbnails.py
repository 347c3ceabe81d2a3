"""Thumbnails as data URIs, plain or with an occlusion map painted over them."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from whale_ray.data.catalog import Catalog
from whale_ray.data.decoding.file_limit import MAX_BYTES
from whale_ray.data.image_io import Box, crop_to_box, decode_image
from whale_ray.errors import DataError, ImageError
from whale_ray.file_errors import is_inside

SIDE = 220
_QUALITY = 72
# Regions that support the match and regions that contradict it, in colors that color-blind readers distinguish.
_FOR, _AGAINST = (255, 120, 0), (40, 110, 255)
_THICKEST = 0.72


@dataclass(frozen=True)
class KeypointPicture:
    """Query and answer side by side, joined by the lines of their verified keypoint matches.

    Attributes:
        role: Role of the answer.
        individual: Individual of the answer.
        data: Data URI.
        inliers: Number of verified matches.
    """

    role: str
    individual: str
    data: str
    inliers: int


class Photographs:
    """The photographs of a data set, read as thumbnails.

    Args:
        folder: Folder of the image files.
        catalog: File and box of each row; None if each row is a whole file.
        image_bytes: Largest accepted file in bytes, without a catalog.
    """

    def __init__(self, folder: Path, catalog: Catalog | None = None, *, image_bytes: int = MAX_BYTES) -> None:
        self.folder, self.catalog = folder, catalog
        self._image_bytes = catalog.image_bytes if catalog else image_bytes

    def _path(self, image: str) -> Path:
        return self.catalog.path(image) if self.catalog else self.folder / image

    def open(self, image: str) -> tuple[Image.Image | None, str]:
        """Return the photograph, cropped to the box of the row, and "", or None and why it cannot be shown.

        Args:
            image: Identifier of the row.
        """
        path = self._path(image)
        if not is_inside(path, self.folder):
            return None, "lies outside the folder of photographs"
        if not path.is_file():
            return None, "photograph not found"
        try:
            picture = decode_image(path, max_bytes=self._image_bytes)
            return crop_to_box(picture, self.catalog.box(image) if self.catalog else None), ""
        except (ImageError, DataError, OSError) as error:
            return None, f"cannot be shown: {error}"

    def thumbnail(self, image: str) -> tuple[str, str]:
        """Return a data URI and "", or "" and why the row cannot be shown."""
        picture, reason = self.open(image)
        if picture is None:
            return "", reason
        picture.thumbnail((SIDE, SIDE))
        return _uri(picture), ""

    def painted(self, image: str, strengths: np.ndarray, frame: Box) -> str:
        """Return a data URI of the photograph in grey, orange for positive strengths and blue for negative ones.

        Args:
            image: Identifier of the row.
            strengths: Strength of each cell, -1 to 1, shape (rows, columns).
            frame: The area that the cells divide, in pixels.
        """
        picture = decode_image(self._path(image), max_bytes=self._image_bytes)
        before = picture.width
        picture.thumbnail((SIDE, SIDE))
        left, top, right, bottom = (side * picture.width / before for side in frame)
        spread = _spread(strengths, (left, top, right, bottom), picture.size)
        grey = np.asarray(picture.convert("L").convert("RGB"), dtype=np.float64)
        ink = np.where(spread[..., None] > 0, _FOR, _AGAINST)
        thick = _THICKEST * np.abs(spread)[..., None]
        return _uri(Image.fromarray(((1 - thick) * grey + thick * ink).round().astype(np.uint8)))


def _spread(strengths: np.ndarray, frame: Box, size: tuple[int, int]) -> np.ndarray:
    """Return the strength of each pixel, smooth between cells and 0 outside the frame."""
    left, top, right, bottom = (round(side) for side in frame)
    cells = Image.fromarray(strengths.astype(np.float32), mode="F")
    laid = cells.resize((max(right - left, 1), max(bottom - top, 1)), Image.Resampling.BICUBIC)
    canvas = Image.new("F", size, 0.0)
    canvas.paste(laid, (left, top))
    return np.asarray(canvas).clip(-1.0, 1.0)


def _uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY)
    return jpeg_uri(buffer.getvalue())


def jpeg_uri(data: bytes) -> str:
    """Return JPEG bytes as a data URI."""
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
