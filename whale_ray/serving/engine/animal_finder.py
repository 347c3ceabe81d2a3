"""Animal finder: decodes images for the detector beside the event loop and finds the animals in them."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from whale_ray.errors import ImageError
from whale_ray.inference.detection.detector import PADDING, Detection, Detector
from whale_ray.serving.engine.decoder_pool import DecoderPool
from whale_ray.serving.metrics import time_stage


class AnimalFinder:
    """Finds animals in images for many callers, one image at a time.

    Args:
        detector: The detector.
        bytes_: Largest image file in bytes.
        pixels: Largest number of pixels of an image.
    """

    def __init__(self, detector: Detector, *, bytes_: int, pixels: int) -> None:
        self._detector = detector
        self.decoders = DecoderPool(detector.geometry, count=1, bytes_=bytes_, pixels=pixels, fill=PADDING)
        self._thread = ThreadPoolExecutor(1, "detector")

    async def find(self, data: bytes) -> list[Detection] | None:
        """Return the animals in an image, the most confident first; None for an image that cannot be decoded."""
        try:
            decoded = await self.decoders.decode(data)
        except ImageError:  # it is decoded again for the encoder, which reports the error
            return None
        with time_stage("detect"):
            detect, loop = self._detector.detect_fitted, asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, detect, decoded.array, decoded.size)
