"""Decoder subprocess: decodes untrusted images outside the service, with limits on memory and time.

It reads requests from stdin and writes answers to stdout until stdin ends. A request is `<?I4d` (thumbnail wanted,
length, box or four NaN) and the image. An answer is `<BIII` (kind and three numbers), followed by the pixels (height,
width, thumbnail length) and the thumbnail, or by a message (its length, 0, 0).
"""

from __future__ import annotations

import json
import math
import resource
import signal
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from whale_ray.data.decoding.thumbnails import shrink_to_jpeg
from whale_ray.data.image_io import Box, Geometry, crop_to_box, decode_image, fit_image
from whale_ray.errors import DataError, ImageBoxError, ImageDecodeError, ImageError, ImageTooLargeError, ImageTypeError

REQUEST_HEADER, ANSWER_HEADER = struct.Struct("<?I4d"), struct.Struct("<BIII")
NO_BOX = (math.nan,) * 4
DECODED = 0
REFUSALS: dict[int, type[ImageError]] = dict(
    enumerate((ImageTypeError, ImageTooLargeError, ImageDecodeError, ImageBoxError), start=1)
)
_BYTES_PER_PIXEL = 24  # of the greediest picture, a large TIFF of whole numbers
_BASE_BYTES = 2**30
_MAX_SECONDS = 120


def main(settings: str) -> None:
    """Answer requests until stdin ends; `settings` is JSON with `geometry`, `bytes` and `pixels` (limits per image)."""
    given = json.loads(settings)
    geometry, most_bytes, most_pixels = Geometry(**given["geometry"]), given["bytes"], given["pixels"]
    _limit_process(_BASE_BYTES + _BYTES_PER_PIXEL * most_pixels)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while header := requests.read(REQUEST_HEADER.size):
        thumbnail, length, *sides = REQUEST_HEADER.unpack(header)
        box = None if math.isnan(sides[0]) else tuple(sides)
        data = requests.read(length)
        signal.alarm(_MAX_SECONDS)  # it ends even where the service that would end it is gone
        _answer(answers, data, geometry, most_bytes, most_pixels, box=box, thumbnail=thumbnail)
        answers.flush()
        signal.alarm(0)


def _limit_process(memory: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is meant for the service, which ends this process
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _answer(
    answers: BinaryIO,
    data: bytes,
    geometry: Geometry,
    most_bytes: int,
    most_pixels: int,
    *,
    box: Box | None,
    thumbnail: bool,
) -> None:
    try:
        image = decode_image(data, max_bytes=most_bytes, max_pixels=most_pixels)
        array = _fit_box(image, geometry, box)
        small = shrink_to_jpeg(crop_to_box(image, box), quality=80) if thumbnail else b""
    except Exception as error:
        kind = next((kind for kind, type_ in REFUSALS.items() if isinstance(error, type_)), 3)
        known = isinstance(error, ImageError)
        message = str(error if known else "the picture is damaged. Copy or save it again").encode("utf-8", "replace")
        answers.write(ANSWER_HEADER.pack(kind, len(message), 0, 0) + message)
        return
    answers.write(ANSWER_HEADER.pack(DECODED, array.shape[0], array.shape[1], len(small)) + array.tobytes() + small)


def _fit_box(image: Image.Image, geometry: Geometry, box: Box | None) -> np.ndarray:
    try:
        return fit_image(image, geometry, box=box)
    except DataError as error:
        raise ImageBoxError(str(error)) from error


if __name__ == "__main__":
    main(sys.argv[1])
