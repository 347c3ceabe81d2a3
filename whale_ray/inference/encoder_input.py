"""Photographs as the encoder's input: decoding and fitting of paths, bytes and Pillow images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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
    return fit_image(open_photograph(photograph), geometry, box=box)


def open_photograph(photograph: Photograph) -> Image.Image:
    """Return a photograph as an upright RGB image.

    Raises:
        ImageError: If it cannot be decoded.
    """
    if isinstance(photograph, str):
        photograph = Path(photograph)
    image = photograph if isinstance(photograph, Image.Image) else decode_image(photograph)
    return image.convert("RGB")


@contextmanager
def named_errors(photograph: Photograph) -> Iterator[None]:
    """Add the name of a photograph's file to errors of the block.

    Raises:
        ImageError: If it cannot be decoded.
        DataError: If the file cannot be read, or its box cannot be used.
    """
    try:
        yield
    except (ImageError, DataError) as error:
        if not isinstance(photograph, Path | str):
            raise
        raise type(error)(f"{photograph}: {error}") from error
    except OSError as error:
        name = photograph if isinstance(photograph, Path | str) else "it"
        raise DataError(
            f"a photograph must be a file that can be read, but {name}: {error.strerror or error}"
        ) from error
