"""One photograph as an array: the one decoder and the one way to fit a picture to the size that is trained on.

Training and serving both come through `decode_image` and `fit_image`, so that they see the same pixels.
Knows one picture at a time; knows no data set, no cache, no tensor.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from whale_ray.errors import DataError, ImageDecodeError, ImageError, ImageTooLargeError, ImageTypeError

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")
FILL = 127  # the grey of what lies beyond a picture's edge
VERSION = 2  # of decoding and fitting: pixels decoded by another version are decoded again
Image.MAX_IMAGE_PIXELS = None  # decode_image has its own limit, which is an error and not a warning
Box = tuple[float, float, float, float]
Array = TypeVar("Array", bound=Any)  # of NumPy, or a tensor


@dataclass(frozen=True)
class Geometry:
    """How a picture becomes an array of `height` x `width` pixels.

    resize: `pad` keeps the aspect and shows what lies around, or grey; `stretch` does not keep it.
    margin: the part of each side that is kept around the region, for augmentation to move into; the centre crop
    is exactly the region.
    """

    height: int
    width: int
    resize: str = "pad"
    margin: float = 0.0

    @property
    def border(self) -> tuple[int, int]:
        """Rows above and below, columns left and right, that surround the centre crop."""
        return round(self.margin * self.height), round(self.margin * self.width)

    @property
    def stored(self) -> tuple[int, int]:
        """Height and width with the border."""
        rows, columns = self.border
        return self.height + 2 * rows, self.width + 2 * columns


def decode_image(source: bytes | Path, *, max_bytes: int = 32 * 2**20, max_pixels: int = 100_000_000) -> Image.Image:
    """The picture as upright 8-bit RGB, its first frame; JPEG, PNG, WebP, TIFF and BMP, told by their content.

    Raises: ImageTooLargeError, ImageTypeError, ImageDecodeError.
    """
    data = source if isinstance(source, bytes) else read_picture(source, max_bytes)
    if len(data) > max_bytes:
        raise ImageTooLargeError(f"a picture has at most {max_bytes:,} bytes, but this one has more. Shrink it")
    if not data:
        raise ImageDecodeError("a picture has bytes, but this file is empty. Copy it again")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise ImageTooLargeError(
                    f"a picture has at most {max_pixels:,} pixels, but this one is {image.width} x {image.height}. "
                    "Shrink it"
                )
            return _rgb(ImageOps.exif_transpose(image))
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageTypeError(
            f"a picture is one of {', '.join(FORMATS)}, but this content is none of them. Save it as JPEG or PNG"
        ) from None
    except Exception as error:  # damaged files raise struct.error, TypeError, SyntaxError and more from Pillow
        raise ImageDecodeError(f"the picture is damaged ({error}). Copy or save it again") from error


def read_picture(path: Path, max_bytes: int) -> bytes:
    """The bytes of the file; of one that is larger than `max_bytes` one byte more than that."""
    with path.open("rb") as stream:
        return stream.read(max_bytes + 1)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        values = np.asarray(image).clip(0, 65535) / 257
        return Image.fromarray(values.round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def fit_image(image: Image.Image, geometry: Geometry, *, box: Box | None = None) -> np.ndarray:
    """The region `box` with its border: uint8 (H', W', 3).

    box: x0, y0, x1, y1 in pixels of the upright picture, clipped to it; default: the whole picture.
    Raises: DataError where less than a pixel of the box lies in the picture.
    """
    left, top, right, bottom = _region(geometry, _clipped(box, image.size))
    height, width = geometry.stored
    scale_x, scale_y = width / (right - left), height / (bottom - top)
    inside = (max(left, 0.0), max(top, 0.0), min(right, image.width), min(bottom, image.height))
    x0, x1 = _interval((inside[0] - left) * scale_x, (inside[2] - left) * scale_x, width)
    y0, y1 = _interval((inside[1] - top) * scale_y, (inside[3] - top) * scale_y, height)
    canvas = np.full((height, width, 3), FILL, dtype=np.uint8)
    fitted = image.resize((x1 - x0, y1 - y0), Image.Resampling.BICUBIC, box=inside, reducing_gap=3.0)
    canvas[y0:y1, x0:x1] = np.asarray(fitted)
    return canvas


def frame_of(size: tuple[int, int], geometry: Geometry, *, box: Box | None = None) -> Box:
    """What an encoder sees of a picture of this width and height, in its pixels; with `pad` it may reach beyond it."""
    return _region(replace(geometry, margin=0.0), _clipped(box, size))


def _clipped(box: Box | None, size: tuple[int, int]) -> Box:
    """The part of the box that lies inside of the picture."""
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


def _region(geometry: Geometry, box: Box) -> Box:
    """What is stored, in pixels of the picture: the box brought to the aspect, and its border."""
    x0, y0, x1, y1 = box
    width, height = x1 - x0, y1 - y0
    if geometry.resize == "pad":
        scale = max(width / geometry.width, height / geometry.height)
        width, height = geometry.width * scale, geometry.height * scale
    width *= geometry.stored[1] / geometry.width
    height *= geometry.stored[0] / geometry.height
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _interval(low: float, high: float, size: int) -> tuple[int, int]:
    """The pixels from low to high, at least one of them."""
    first = min(round(low), size - 1)
    return first, max(min(round(high), size), first + 1)


def centre_crop(array: Array, geometry: Geometry) -> Array:
    """The region without its border: (..., H', W', 3) to (..., height, width, 3), a view."""
    rows, columns = geometry.border
    region: Array = array[..., rows : rows + geometry.height, columns : columns + geometry.width, :]
    return region
