"""Photographs as the encoder's input: decoding and fitting of paths, bytes and Pillow images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from whale_ray.data.image_io import Box, Geometry, decode_image, fit_image
from whale_ray.errors import DataError, ImageError

Photograph = Path | str | bytes | Image.Image


def prepare_photograph(photograph: Photograph, geometry: Geometry, *, box: Box | None = None) -> np.ndarray:
    """Return a photograph as the encoder's input: uint8, shape (H', W', 3).

    Args:
        photograph: Path, bytes of an image file or Pillow image.
        geometry: Size and margin of the input.
        box: x0, y0, x1, y1 in pixels of the upright photograph; None for all of it.

    Raises:
        ImageError: If it cannot be decoded.
        DataError: If the box covers no pixel of it.
    """
    if isinstance(photograph, str):
        photograph = Path(photograph)
    image = photograph if isinstance(photograph, Image.Image) else decode_image(photograph)
    return fit_image(image.convert("RGB"), geometry, box=box)


def prepare_named(photograph: Photograph, geometry: Geometry, *, box: Box | None = None) -> np.ndarray:
    """Return `prepare_photograph`, with the file's name in its errors.

    Args:
        photograph: Path, bytes of an image file or Pillow image.
        geometry: Size and margin of the input.
        box: x0, y0, x1, y1 in pixels of the upright photograph; None for all of it.

    Raises:
        ImageError: If it cannot be decoded.
        DataError: If the file cannot be read, or the box covers no pixel of it.
    """
    if not isinstance(photograph, Path | str):
        return prepare_photograph(photograph, geometry, box=box)
    try:
        return prepare_photograph(photograph, geometry, box=box)
    except (ImageError, DataError) as error:
        raise type(error)(f"{photograph}: {error}") from error
    except OSError as error:
        raise DataError(
            f"a photograph must be a file that can be read, but {photograph}: {error.strerror or error}"
        ) from error
