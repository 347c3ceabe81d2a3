"""Decoding of one photograph: fitted pixels and small grey images of its catalog rows, and the health of its file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from whale_ray.data.catalog import Catalog
from whale_ray.data.decoding.exif_date import read_exif_date
from whale_ray.data.decoding.reduced_versions import SmallImages
from whale_ray.data.decoding.thumbnails import shrink_to_jpeg
from whale_ray.data.image_io import Box, Geometry, crop_to_box, decode_image, fit_image, read_file
from whale_ray.errors import DataError, ImageDecodeError, ImageError, ImageTooLargeError, ImageTypeError

_STATUS = {ImageTypeError: "wrong_type", ImageTooLargeError: "too_large", ImageDecodeError: "damaged"}
_EMPTY = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class RowArrays:
    """Decoded images, row by row.

    Attributes:
        pixels: uint8, shape (N, H', W', 3).
        small: Whole images in grey, uint8, shape (N, 16, 16).
        grey: Whole images in grey with their aspect ratio, uint8, shape (N, 64, 64).
        grey_sizes: Height and width of each image in `grey`, uint8, shape (N, 2).
        thumbnails: JPEG of the box or the whole image; empty where it cannot be decoded.
    """

    pixels: np.ndarray
    small: np.ndarray
    grey: np.ndarray
    grey_sizes: np.ndarray
    thumbnails: list[bytes]


def decode_photograph(
    catalog: Catalog, geometry: Geometry, arrays: RowArrays, rows: Sequence[int]
) -> dict[int, dict[str, object]]:
    """Decode one photograph into its rows of the arrays and return their health.

    The perceptual hash of an animal in a photograph of several rows is that of its box, which tells it from the others.

    Args:
        catalog: The photographs.
        geometry: Target size and fitting.
        arrays: Arrays whose rows are written.
        rows: The rows of the photograph in the catalog.

    Returns:
        By row: image, status, reason, width, height, sha256, phash, taken and remark, as in
        `DecodedImages.health`.
    """
    names = [str(catalog.table["image"].iat[row]) for row in rows]
    photograph, image = _decode_file(catalog, names[0])
    found = {}
    for row, name in zip(rows, names, strict=True):
        health = {**photograph, "image": name}
        if image is not None:
            health |= _fit_row(image, catalog.box(name), geometry, arrays, row, is_shared=len(rows) > 1)
        found[row] = health
    return found


def _decode_file(catalog: Catalog, name: str) -> tuple[dict[str, object], Image.Image | None]:
    """Return the health of a file and its image, None if it cannot be decoded."""
    health: dict[str, object] = {"image": name, "status": "ok", "reason": "", "width": 0, "height": 0}
    health |= {"sha256": "", "phash": "", "taken": "", "remark": ""}
    remarks: list[str] = []
    try:
        data = read_file(catalog.path(name), catalog.image_bytes)
        health["sha256"] = hashlib.sha256(data).hexdigest()
        image = decode_image(data, max_bytes=catalog.image_bytes, on_warning=remarks.append)
        health |= {"width": image.width, "height": image.height, "taken": read_exif_date(data)}
        health["remark"] = "; ".join(remarks)
        return health, image
    except FileNotFoundError:
        health |= {"status": "missing", "reason": "there is no such file"}
    except OSError as error:
        health |= {"status": "unreadable", "reason": str(error.strerror or error)}
    except ImageError as error:
        health |= {"status": _STATUS[type(error)] if health["sha256"] != _EMPTY else "empty", "reason": str(error)}
    return health, None


def _fit_row(
    image: Image.Image, box: Box | None, geometry: Geometry, arrays: RowArrays, row: int, *, is_shared: bool
) -> dict[str, object]:
    """Write one row of the arrays and return what its health adds."""
    added: dict[str, object] = {}
    try:
        seen = crop_to_box(image, box) if is_shared else image
        small = SmallImages(seen)
        added["phash"] = small.perceptual_hash()
        grey = small.grey()
        arrays.grey_sizes[row] = grey.shape
        arrays.grey[row, : grey.shape[0], : grey.shape[1]] = grey
        arrays.small[row] = small.square()
        arrays.pixels[row] = fit_image(image, geometry, box=box)
        shown = small.reduced if box is None or is_shared else crop_to_box(image, box)
        # A thumbnail is made in place, and other rows need the image.
        arrays.thumbnails[row] = shrink_to_jpeg(shown.copy() if shown is image else shown)
    except DataError as error:
        added |= {"status": "wrong_box", "reason": str(error)}
    return added
