"""Photographs as the encoder wants them, decoded beside the event loop.

Knows bytes and pixels; knows no encoder, no HTTP and no Ray.
"""

from __future__ import annotations

import asyncio
import io
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from whale_ray.data.pictures import Geometry, decode_image, fit_image
from whale_ray.errors import ImageDecodeError, ImageError

THUMBNAIL_SIDE = 160
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decoded:
    """array: uint8 (H, W, 3), margin included; thumbnail: a small JPEG, empty where none was asked for."""

    array: np.ndarray
    thumbnail: bytes


class Decoders:
    """Decodes `count` photographs at once. pixels, bytes_: the most that one may have."""

    def __init__(self, geometry: Geometry, *, count: int, bytes_: int, pixels: int) -> None:
        self._geometry, self._bytes, self._pixels = geometry, bytes_, pixels
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="decode")

    async def decode(self, data: bytes, *, thumbnail: bool = False) -> Decoded:
        """The photograph fitted to the encoder's size. Raises: ImageError where it cannot be used."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._decode, data, thumbnail)

    def _decode(self, data: bytes, thumbnail: bool) -> Decoded:
        try:
            image = decode_image(data, max_bytes=self._bytes, max_pixels=self._pixels)
            array = fit_image(image, self._geometry)
            if not thumbnail:
                return Decoded(array, b"")
            image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
            small = io.BytesIO()
            image.save(small, "JPEG", quality=80)
            return Decoded(array, small.getvalue())
        except ImageError:
            raise
        except Exception as error:
            # A decoder met something nobody foresaw: that is the picture's fault, and not a fault of the service.
            _log.warning("a picture brought its decoder to fall", exc_info=True)
            raise ImageDecodeError("the picture is damaged. Copy or save it again") from error
