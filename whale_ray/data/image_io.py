"""Image decoding and fitting: the only decoder, shared by training and serving.

`decode_image` and `fit_image` are used everywhere, so that training and serving see the same pixels.
"""

from __future__ import annotations

import errno
import io
import logging
import math
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from whale_ray.data.decoding.decoder_warnings import collect_warnings
from whale_ray.data.decoding.file_limit import MAX_BYTES
from whale_ray.data.decoding.image_formats import FORMATS, recognize_format, register_decoders
from whale_ray.data.decoding.pixel_values import to_upright_rgb
from whale_ray.data.decoding.tiff_pages import select_full_page, unreadable_page
from whale_ray.errors import DataError, ImageDecodeError, ImageError, ImageTooLargeError, ImageTypeError

MAX_PIXELS = 100_000_000
FILL = 127  # the grey of what lies beyond a picture's edge
VERSION = 6  # of decoding, fitting and dates: pixels decoded by another version are decoded again
Image.MAX_IMAGE_PIXELS = None  # decode_image has its own limit, which is an error and not a warning
Box = tuple[float, float, float, float]
Array = TypeVar("Array", bound=Any)  # of NumPy, or a tensor
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Geometry:
    """Size and fitting of a decoded image.

    Attributes:
        height: Height in pixels.
        width: Width in pixels.
        resize: `pad` keeps the aspect ratio and fills with the surroundings or grey; `stretch` does not keep it.
        margin: Extra border on each side as a share of that side, for augmentation to move into. The center crop is
            exactly the region.
    """

    height: int
    width: int
    resize: str = "pad"
    margin: float = 0.0

    @property
    def border(self) -> tuple[int, int]:
        """Return the rows above and below and the columns left and right of the center crop."""
        return round(self.margin * self.height), round(self.margin * self.width)

    @property
    def stored(self) -> tuple[int, int]:
        """Return height and width including the border."""
        rows, columns = self.border
        return self.height + 2 * rows, self.width + 2 * columns


def decode_image(
    source: bytes | Path,
    *,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    on_warning: Callable[[str], None] | None = None,
) -> Image.Image:
    """Return the first full-resolution frame as upright 8-bit RGB. The format is recognised by content.

    Args:
        source: The bytes of an image, or its path.
        max_bytes: Largest file size in bytes.
        max_pixels: Largest number of pixels.
        on_warning: Called with each warning of the decoder; None logs them with the path.

    Raises:
        ImageTooLargeError: If the file or the image is too large.
        ImageTypeError: If the content is none of the accepted formats, or has a number format that is not supported.
        ImageDecodeError: If the file is empty or damaged.
    """
    data = source if isinstance(source, bytes) else read_file(source, max_bytes)
    if len(data) > max_bytes:
        raise ImageTooLargeError(
            f"a picture has at most {max_bytes:,} bytes, but this one has more. Shrink it, or raise image_bytes"
        )
    if not data:
        raise ImageDecodeError("a picture has bytes, but this file is empty. Copy it again")
    with collect_warnings() as messages:
        image = _decode(data, max_pixels)
    for message in messages:
        if on_warning is not None:
            on_warning(message)
        else:
            _log.warning("%s: %s", "an image" if isinstance(source, bytes) else source, message)
    return image


def _decode(data: bytes, max_pixels: int) -> Image.Image:
    kind = recognize_format(data)
    if kind is None:
        raise ImageTypeError(
            f"a picture is one of {', '.join(FORMATS)}, but this content is none of them. Save it as JPEG or PNG"
        )
    register_decoders()
    try:
        if kind == "TIFF":
            data = select_full_page(data)
        with Image.open(io.BytesIO(data), formats=(kind,)) as image:
            if image.width * image.height > max_pixels:
                raise ImageTooLargeError(
                    f"a picture has at most {max_pixels:,} pixels, but this one is {image.width} x {image.height}. "
                    "Shrink it"
                )
            return to_upright_rgb(image)
    except ImageError:
        raise
    except UnidentifiedImageError:
        if kind == "TIFF":
            raise unreadable_page(data) from None
        raise ImageDecodeError(f"the {kind} picture is damaged: its header cannot be read. Copy it again") from None
    except Exception as error:  # damaged files raise struct.error, TypeError, SyntaxError and more from Pillow
        reason = " ".join(str(error).split())  # libheif ends its messages with a line break
        raise ImageDecodeError(f"the picture is damaged ({reason}). Copy or save it again") from error


def read_file(path: Path, max_bytes: int) -> bytes:
    """Return the bytes of a file, at most `max_bytes` + 1 of them, so that a larger file is noticed without reading it.

    Args:
        path: The file.
        max_bytes: Largest accepted size in bytes.

    Raises:
        OSError: If it cannot be read, or is a pipe or device, which might never end.
    """
    status = path.stat()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise OSError(errno.EINVAL, "it is a pipe, socket or device")
    with path.open("rb") as stream:
        return stream.read(min(status.st_size, max_bytes) + 1)  # Python reserves as many bytes as are asked for


def fit_image(image: Image.Image, geometry: Geometry, *, box: Box | None = None, fill: int = FILL) -> np.ndarray:
    """Return the region of the image with its border, uint8, shape (H', W', 3).

    Args:
        image: The upright RGB image.
        geometry: Target size and fitting.
        box: x0, y0, x1, y1 in pixels of the upright image, clipped to it; None for the whole image.
        fill: Grey of what lies beyond the edges of the image, 0 to 255.

    Raises:
        DataError: If less than one pixel of the box lies inside the image.
    """
    left, top, right, bottom = _stored_region(geometry, _clip_box(box, image.size))
    height, width = geometry.stored
    scale_x, scale_y = width / (right - left), height / (bottom - top)
    inside = (max(left, 0.0), max(top, 0.0), min(right, image.width), min(bottom, image.height))
    x0, x1 = _pixel_interval((inside[0] - left) * scale_x, (inside[2] - left) * scale_x, width)
    y0, y1 = _pixel_interval((inside[1] - top) * scale_y, (inside[3] - top) * scale_y, height)
    canvas = np.full((height, width, 3), fill, dtype=np.uint8)
    fitted = image.resize((x1 - x0, y1 - y0), Image.Resampling.BICUBIC, box=inside, reducing_gap=3.0)
    canvas[y0:y1, x0:x1] = np.asarray(fitted)
    return canvas


def crop_to_box(image: Image.Image, box: Box | None) -> Image.Image:
    """Return the part of an image inside a box, rounded outwards to whole pixels; the image itself without a box.

    Args:
        image: The upright image.
        box: x0, y0, x1, y1 in pixels, clipped to the image.

    Raises:
        DataError: If less than one pixel of the box lies inside the image.
    """
    if box is None:
        return image
    x0, y0, x1, y1 = _clip_box(box, image.size)
    return image.crop((math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1)))


def visible_box(size: tuple[int, int], geometry: Geometry, *, box: Box | None = None) -> Box:
    """Return the part of an image that the encoder sees, in image pixels. With `pad` it may extend beyond the image.

    Args:
        size: Width and height of the image in pixels.
        geometry: Target size and fitting.
        box: Box of the animal, as in `fit_image`.
    """
    return _stored_region(replace(geometry, margin=0.0), _clip_box(box, size))


def _clip_box(box: Box | None, size: tuple[int, int]) -> Box:
    """Return the part of the box that lies inside the image."""
    width, height = size
    x0, y0, x1, y1 = (0.0, 0.0, width, height) if box is None else box
    x0, x1 = min(max(x0, 0.0), width), min(max(x1, 0.0), width)
    y0, y1 = min(max(y0, 0.0), height), min(max(y1, 0.0), height)
    if x1 - x0 < 1 or y1 - y0 < 1:
        raise DataError(
            f"a box covers a pixel of its picture at least, but {box} covers none of {width} x {height}. "
            "Give it in pixels of the upright picture, or leave it out"
        )
    return x0, y0, x1, y1


def _stored_region(geometry: Geometry, box: Box) -> Box:
    """Return the stored region in image pixels: the box extended to the target aspect ratio, and its border."""
    x0, y0, x1, y1 = box
    width, height = x1 - x0, y1 - y0
    if geometry.resize == "pad":
        scale = max(width / geometry.width, height / geometry.height)
        width, height = geometry.width * scale, geometry.height * scale
    width *= geometry.stored[1] / geometry.width
    height *= geometry.stored[0] / geometry.height
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _pixel_interval(low: float, high: float, size: int) -> tuple[int, int]:
    """Return first and last pixel of an interval that covers at least one pixel."""
    first = min(round(low), size - 1)
    return first, max(min(round(high), size), first + 1)


def center_crop(array: Array, geometry: Geometry) -> Array:
    """Return a view without the border: (..., H', W', 3) becomes (..., height, width, 3).

    Args:
        array: Array or tensor of stored images.
        geometry: Their geometry.
    """
    rows, columns = geometry.border
    region: Array = array[..., rows : rows + geometry.height, columns : columns + geometry.width, :]
    return region
