"""Conversion of decoded pixels of any mode to upright 8-bit RGB."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from whale_ray.data.decoding.tiff_pages import BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO
from whale_ray.errors import ImageTypeError

_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_GREY_STEPS = {"1": 255, "L;2": 85, "L;4": 17}  # of PNG: grey level of one step, which Pillow applies to pixels only
_FLOAT_SLACK = 0.05  # floating-point values may overshoot 0 and 1 by this much, as after resampling
_FEWEST_LEVELS = 2**12  # 16-bit pictures below it hold numbers of 12 bits or fewer
_UNSUPPORTED_MODES = {"LAB": "CIELAB", "HSV": "HSV"}
_REMEDY = "Save it as JPEG or PNG, or as TIFF of 8 or 16 bits per channel"


def to_upright_rgb(image: Image.Image) -> Image.Image:
    """Return an opened image as upright 8-bit RGB, on white where it is transparent.

    Integers are scaled by the range of their format, floating-point values from 0 to 1.

    Raises:
        ImageTypeError: If the values of a 32-bit image do not fill the range of their format.
    """
    _scale_png_transparency(image)
    image.load()
    return _turn_upright(_to_rgb(image), read_orientation(image))


def read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if it is absent or unreadable. Other tags are not touched."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged EXIF raises struct.error, SyntaxError and more
        return 1
    return value if isinstance(value, int) else 1


def _turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    method = _TRANSPOSES.get(orientation)
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_to_grey_levels(image)).convert("RGB")
    if image.mode in _UNSUPPORTED_MODES:
        raise ImageTypeError(
            f"a picture has RGB, grey or CMYK, but this one {_UNSUPPORTED_MODES[image.mode]}. {_REMEDY}"
        )
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
    if image.mode == "RGB" and image.format == "JPEG":
        return image  # `convert` copies it, which takes a tenth of the decoding
    return image.convert("RGB")


def _to_grey_levels(image: Image.Image) -> np.ndarray:
    """Return a grey image of more than 8 bits as uint8, shape (H, W)."""
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    values = np.asarray(image)
    if image.mode == "F":
        shares = _check_float(values)
    else:
        bits = int(tags.get(BITS_PER_SAMPLE, (16,))[0])
        if bits == 32:
            values = values.view(np.uint32)
            _check_range(values, bits)
        elif bits == 16 and 0 < (high := int(values.max())) < _FEWEST_LEVELS:
            warnings.warn(
                f"its 16-bit values go up to {high} of 65535 only, so that it is nearly black: numbers of fewer bits? "
                "Then save it as JPEG or PNG",
                stacklevel=2,
            )
        shares = values.astype(np.float32) / np.float32(2**bits - 1)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        shares = 1 - shares
    levels: np.ndarray = (shares * np.float32(255)).round().clip(0, 255).astype(np.uint8)
    if isinstance(transparent := image.info.get("transparency"), int):
        levels[values == transparent] = 255
    return levels


def _check_float(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if not (low >= -_FLOAT_SLACK and high <= 1 + _FLOAT_SLACK):  # NaN compares false
        raise ImageTypeError(
            "floating-point values must go from 0 (black) to 1 (white), but those of this picture go from "
            f"{low:g} to {high:g}. {_REMEDY}"
        )
    if 0 < high < 1 / 255:
        raise _unused_range(f"{low:g} to {high:g}", "0 to 1")
    return values


def _check_range(values: np.ndarray, bits: int) -> None:
    """Raise ImageTypeError for values that would all become black, as those of fewer bits in a larger number do."""
    high = int(values.max())
    if 0 < high < 2 ** (bits - 8):
        raise _unused_range(f"{int(values.min())} to {high}", f"0 to {2**bits - 1}")


def _unused_range(found: str, range_: str) -> ImageTypeError:
    return ImageTypeError(
        f"values must fill the range of their format, {range_}, but those of this picture go from {found} and would "
        f"all be black. {_REMEDY}"
    )


def _scale_png_transparency(image: Image.Image) -> None:
    """Bring the transparent color of a PNG, which Pillow leaves in steps of the file, to the levels of the pixels."""
    transparent = image.info.get("transparency")
    if image.format != "PNG" or not isinstance(transparent, (int, tuple)):
        return
    tiles = getattr(image, "tile", None)
    raw_mode = tiles[0].args if tiles else ""
    if isinstance(transparent, int) and raw_mode in _GREY_STEPS:
        image.info["transparency"] = min(transparent * _GREY_STEPS[raw_mode], 255)
    elif isinstance(transparent, tuple) and raw_mode == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
