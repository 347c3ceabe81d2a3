"""Messages between the service and a decoder process: requests, and answers of bounded length.

Answers come from a process that reads hostile files, so each length in them is checked.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from whale_ray.data.image_io import Box
from whale_ray.errors import (
    DataError,
    ImageBoxError,
    ImageDecodeError,
    ImageError,
    ImageTooLargeError,
    ImageTypeError,
)
from whale_ray.retrieval.local.feature_bytes import keypoint_bytes, unpack_features
from whale_ray.retrieval.local.local_features import MOST_KEYPOINTS, LocalFeatures

REQUEST_HEADER, BOX, ANSWER_HEADER = struct.Struct("<??IH"), struct.Struct("<4d"), struct.Struct("<B6I")
NO_BOX = (math.nan,) * 4
DECODED = 0
REFUSALS: dict[int, type[ImageError]] = dict(
    enumerate((ImageTypeError, ImageTooLargeError, ImageDecodeError, ImageBoxError), start=1)
)
NO_LOCAL = "none"
"""Kind of local features of a decoder that searches no keypoints."""
_MAX_MESSAGE_BYTES = 10_000
_MAX_THUMBNAIL_BYTES = 2**20


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image.

    Attributes:
        array: uint8, shape (H, W, 3), margin included.
        thumbnail: A small JPEG; empty if none was requested.
        size: Width and height of the upright image in pixels.
        keypoints: Local features; None if none were requested, or the decoder searches none.
    """

    array: np.ndarray
    thumbnail: bytes
    size: tuple[int, int]
    keypoints: LocalFeatures | None = None


Decoded = DecodedImage | ImageError
"""A decoded image, or the reason why it cannot be used."""


class DecodeRequest(NamedTuple):
    """An image file to decode.

    Attributes:
        data: The image file.
        boxes: x0, y0, x1, y1 of each animal in pixels of the upright image; None for all of it.
        thumbnail: Make a thumbnail of each box.
        keypoints: Search keypoints in each box, if the decoder searches any.
    """

    data: bytes
    boxes: Sequence[Box | None]
    thumbnail: bool = False
    keypoints: bool = False

    def packed(self) -> bytes:
        """Return the request as bytes."""
        head = REQUEST_HEADER.pack(self.thumbnail, self.keypoints, len(self.data), len(self.boxes))
        return head + b"".join(BOX.pack(*(box or NO_BOX)) for box in self.boxes) + self.data


class AnswerReader(NamedTuple):
    """Reads the answers of a decoder.

    Attributes:
        shape: Shape of the arrays that it sends.
        local: Kind of local features that it searches; `none` for none.
    """

    shape: tuple[int, ...]
    local: str

    @property
    def pixels(self) -> int:
        """Number of values of an array."""
        return math.prod(self.shape)

    def body_length(self, kind: int, numbers: Sequence[int]) -> int:
        """Return the number of bytes behind the head of an answer.

        Args:
            kind: Kind of the answer.
            numbers: The six numbers of its head.

        Raises:
            EOFError: If no decoder sends such an answer.
        """
        if kind != DECODED:
            if numbers[0] > _MAX_MESSAGE_BYTES:
                raise EOFError("an answer without an end")
            return numbers[0]
        height, width, thumbnail, keypoints = (*numbers[:3], numbers[5])
        most = 0 if self.local == NO_LOCAL else MOST_KEYPOINTS * keypoint_bytes(self.local)
        if (height, width, 3) != self.shape or thumbnail > _MAX_THUMBNAIL_BYTES or keypoints > most:
            raise EOFError("an answer of another shape")
        return self.pixels + thumbnail + keypoints

    def read(self, kind: int, numbers: Sequence[int], body: memoryview, *, keypoints: bool) -> Decoded:
        """Return the image of an answer, or the error.

        Args:
            kind: Kind of the answer.
            numbers: The six numbers of its head.
            body: Its bytes, as many as `body_length`.
            keypoints: Keypoints were requested.

        Raises:
            EOFError: If the keypoints cannot be read.
        """
        if kind != DECODED:
            return REFUSALS.get(kind, ImageDecodeError)(str(body, "utf-8", "replace"))
        array = np.frombuffer(body, np.uint8, self.pixels).reshape(self.shape)
        end = self.pixels + numbers[2]
        features = None
        if keypoints and self.local != NO_LOCAL:
            try:
                features = unpack_features(body[end:], self.local)
            except DataError as error:
                raise EOFError("keypoints of another form") from error
        return DecodedImage(array, bytes(body[self.pixels : end]), (numbers[3], numbers[4]), features)
