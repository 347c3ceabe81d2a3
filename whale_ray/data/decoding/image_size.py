"""Size of an image from its header, without decoding its pixels."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from whale_ray.data.decoding.decoder_warnings import collect_warnings
from whale_ray.data.decoding.image_formats import SIGNATURE_BYTES, recognize_format, register_decoders
from whale_ray.data.decoding.pixel_values import read_orientation
from whale_ray.data.decoding.tiff_pages import select_full_page

_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height


def read_image_size(path: Path) -> tuple[int, int] | None:
    """Return width and height of the upright image in pixels; None if the file is no readable image."""
    register_decoders()
    try:
        with path.open("rb") as stream:
            kind = recognize_format(stream.read(SIGNATURE_BYTES))
        if kind is None:
            return None
        source = io.BytesIO(select_full_page(path.read_bytes())) if kind == "TIFF" else path
        with collect_warnings(), Image.open(source, formats=(kind,)) as image:
            width, height = image.size
            return (height, width) if read_orientation(image) in _SIDEWAYS else (width, height)
    except Exception:  # damaged files raise struct.error, TypeError, SyntaxError and more; decoding reports them
        return None
