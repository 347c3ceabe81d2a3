"""Decoder subprocess: decodes untrusted images outside the service, with limits on memory and time.

It reads requests from stdin and writes answers to stdout until stdin ends. A request is `<??IH` (thumbnail wanted,
keypoints wanted, length, number of boxes), the boxes (`<4d` each, four NaN for the whole image) and the image. Each box
has an answer: `<B6I` (kind and six numbers), followed by the pixels (height, width, thumbnail length, width and height
of the image, keypoint length), the thumbnail and the keypoints, or by a message (its length and five zeros).
"""

from __future__ import annotations

import json
import math
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from whale_ray.data.decoding.thumbnails import shrink_to_jpeg
from whale_ray.data.image_io import Box, Geometry, crop_to_box, decode_image, fit_image
from whale_ray.errors import DataError, ImageBoxError, ImageError
from whale_ray.serving.engine.decoder_messages import ANSWER_HEADER, BOX, DECODED, NO_LOCAL, REFUSALS, REQUEST_HEADER

_BYTES_PER_PIXEL = 24  # of the greediest picture, a large TIFF of whole numbers
_BASE_BYTES = 2**30
_MAX_SECONDS = 120
Fit = Callable[[Image.Image, Box | None], np.ndarray]
Search = Callable[[Image.Image, Box | None], bytes]


def main(settings: str) -> None:
    """Answer requests until stdin ends.

    Args:
        settings: JSON with `geometry`, `fill`, the kind of keypoints, `local`, the ONNX file that finds them,
            `network`, and the limits per image, `bytes` and `pixels`.
    """
    given = json.loads(settings)
    geometry, fill = Geometry(**given["geometry"]), given["fill"]
    most_bytes, most_pixels = given["bytes"], given["pixels"]
    _limit_process(_BASE_BYTES + _BYTES_PER_PIXEL * most_pixels)
    fit = partial(_fit_box, geometry=geometry, fill=fill)
    search = _keypoint_search(given["local"], given["network"])
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while header := requests.read(REQUEST_HEADER.size):
        thumbnail, keypoints, length, count = REQUEST_HEADER.unpack(header)
        sides = [BOX.unpack(requests.read(BOX.size)) for _ in range(count)]
        boxes = [None if math.isnan(box[0]) else box for box in sides]
        data = requests.read(length)
        signal.alarm(_MAX_SECONDS)  # it ends even where the service that would end it is gone
        answer_box = partial(_answer, fit=fit, search=search if keypoints else _search_nothing, thumbnail=thumbnail)
        for answer in _answers(data, boxes, answer_box, most_bytes, most_pixels):
            answers.write(answer)
        answers.flush()
        signal.alarm(0)


def _limit_process(memory: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is meant for the service, which ends this process
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _answers(
    data: bytes,
    boxes: Sequence[Box | None],
    answer_box: Callable[[Image.Image, Box | None], bytes],
    most_bytes: int,
    most_pixels: int,
) -> Iterator[bytes]:
    """Yield an answer for each box; the image is decoded once."""
    try:
        image = decode_image(data, max_bytes=most_bytes, max_pixels=most_pixels)
    except Exception as error:
        yield from [_refusal(error)] * len(boxes)
        return
    for box in boxes:
        try:
            yield answer_box(image, box)
        except Exception as error:
            yield _refusal(error)


def _answer(image: Image.Image, box: Box | None, *, fit: Fit, search: Search, thumbnail: bool) -> bytes:
    array, size, keypoints = fit(image, box), image.size, search(image, box)
    # A thumbnail of the whole image would be made in place.
    small = shrink_to_jpeg(image.copy() if box is None else crop_to_box(image, box), quality=80) if thumbnail else b""
    header = ANSWER_HEADER.pack(DECODED, array.shape[0], array.shape[1], len(small), *size, len(keypoints))
    return header + array.tobytes() + small + keypoints


def _refusal(error: Exception) -> bytes:
    kind = next((kind for kind, type_ in REFUSALS.items() if isinstance(error, type_)), 3)
    known = isinstance(error, ImageError)
    message = str(error if known else "the picture is damaged. Copy or save it again").encode("utf-8", "replace")
    return ANSWER_HEADER.pack(kind, len(message), 0, 0, 0, 0, 0) + message


def _fit_box(image: Image.Image, box: Box | None, *, geometry: Geometry, fill: int) -> np.ndarray:
    try:
        return fit_image(image, geometry, box=box, fill=fill)
    except DataError as error:
        raise ImageBoxError(str(error)) from error


def _search_nothing(image: Image.Image, box: Box | None) -> bytes:
    return b""


def _keypoint_search(kind: str, network: str | None) -> Search:
    """Return the search for keypoints of this kind, by the network of an ONNX file if it has one.

    OpenCV is imported only if keypoints are searched.
    """
    if kind == NO_LOCAL:
        return _search_nothing
    import cv2

    from whale_ray.retrieval.local.feature_bytes import pack_features
    from whale_ray.retrieval.local.local_features import extract_features, local_picture

    if network is not None:
        from whale_ray.retrieval.local.learned.network_registry import register_network

        register_network(Path(network))
    cv2.setNumThreads(1)  # further processes decode beside this one, and a thread takes address space

    def search(image: Image.Image, box: Box | None) -> bytes:
        return pack_features(extract_features(local_picture(image, box=box), kind), kind)

    return search


if __name__ == "__main__":
    main(sys.argv[1])
