"""Pool of decoder processes: a crash or hang ends one process, not the service."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import socket
import subprocess
import sys
import weakref
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from whale_ray.data.image_io import FILL, Box, Geometry
from whale_ray.errors import ImageDecodeError, ImageError
from whale_ray.serving.engine.decoder_process import ANSWER_HEADER, BOX, DECODED, NO_BOX, REFUSALS, REQUEST_HEADER

DECODE_SECONDS = 20.0
_MAX_MESSAGE_BYTES = 10_000
_MAX_THUMBNAIL_BYTES = 2**20
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image.

    Attributes:
        array: uint8, shape (H, W, 3), margin included.
        thumbnail: A small JPEG; empty if none was requested.
        size: Width and height of the upright image in pixels.
    """

    array: np.ndarray
    thumbnail: bytes
    size: tuple[int, int]


Decoded = DecodedImage | ImageError
"""A decoded image, or the reason why it cannot be used."""


class DecoderPool:
    """Decodes `count` images in parallel, each within limits on bytes, pixels and seconds."""

    def __init__(
        self,
        geometry: Geometry,
        *,
        count: int,
        bytes_: int,
        pixels: int,
        seconds: float = DECODE_SECONDS,
        fill: int = FILL,
        command: Sequence[str] = (sys.executable, "-m", "whale_ray.serving.engine.decoder_process"),
    ) -> None:
        settings = json.dumps({"geometry": asdict(geometry), "fill": fill, "bytes": bytes_, "pixels": pixels})
        self._most_bytes, self._shape = bytes_, (*geometry.stored, 3)
        processes = [_DecoderProcess([*command, settings], seconds) for _ in range(count)]
        self._idle: asyncio.LifoQueue[_DecoderProcess] = asyncio.LifoQueue()  # the last one is warm
        for process in processes:
            self._idle.put_nowait(process)
        self._at_work: set[asyncio.Task[list[Decoded]]] = set()
        self._end = weakref.finalize(self, _kill_all, processes)

    async def decode(self, data: bytes, *, box: Box | None = None, thumbnail: bool = False) -> DecodedImage:
        """Return the image fitted to the encoder's input size.

        Args:
            data: The image file.
            box: x0, y0, x1, y1 in pixels of the upright image; None for all of it.
            thumbnail: Whether to make a thumbnail.

        Raises:
            ImageError: If the image cannot be used.
        """
        (found,) = await self.decode_boxes(data, [box], thumbnail=thumbnail)
        if isinstance(found, ImageError):
            raise found
        return found

    async def decode_boxes(self, data: bytes, boxes: Sequence[Box | None], *, thumbnail: bool = False) -> list[Decoded]:
        """Return each box of an image fitted to the encoder's input size; the image is decoded once.

        Args:
            data: The image file.
            boxes: As in `decode`.
            thumbnail: Whether to make thumbnails.

        Returns:
            For each box the decoded image, or the error if it cannot be used.
        """
        process = await self._idle.get()
        task = asyncio.create_task(self._decode(process, data, boxes, thumbnail))
        self._at_work.add(task)
        task.add_done_callback(self._at_work.discard)
        return await asyncio.shield(task)  # a cancelled caller must not leave a half-read answer

    async def _decode(
        self, process: _DecoderProcess, data: bytes, boxes: Sequence[Box | None], thumbnail: bool
    ) -> list[Decoded]:
        try:
            # One byte too many is enough for the decoder to refuse it.
            return await process.decode(data[: self._most_bytes + 1], self._shape, boxes=boxes, thumbnail=thumbnail)
        finally:
            self._idle.put_nowait(process)

    def close(self) -> None:
        """End the processes."""
        self._end()


def _kill_all(processes: list[_DecoderProcess]) -> None:
    for process in processes:
        process.end()


class _DecoderProcess:
    """One decoder process, restarted after a crash or a timeout.

    It is connected by a socket instead of a pipe: a socket buffers more, and the event loop waits for it without a
    thread.
    """

    def __init__(self, command: Sequence[str], seconds: float) -> None:
        self._command, self._seconds = command, seconds
        self.start()

    def start(self) -> None:
        """Starts the process."""
        # The decoder handles untrusted files, so its environment has no secrets such as API keys.
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "LD_LIBRARY_PATH")}
        environment = {**kept, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"}
        self.socket, its = socket.socketpair()
        self.socket.setblocking(False)
        with its:
            self.running = subprocess.Popen(
                self._command,
                stdin=its.fileno(),
                stdout=its.fileno(),
                stderr=subprocess.DEVNULL,  # what libraries say of a hostile file is not for the log
                env=environment,
            )

    async def decode(
        self,
        data: bytes,
        shape: tuple[int, ...],
        *,
        boxes: Sequence[Box | None],
        thumbnail: bool,
        again: bool = True,
    ) -> list[Decoded]:
        """Return the decoded image, or the error, of each box.

        Args:
            data: The image file.
            shape: Shape of the array.
            boxes: Boxes of the animals.
            thumbnail: Also return thumbnails.
            again: Retry once after a crash, which may have had another cause such as low memory.
        """
        try:
            async with asyncio.timeout(self._seconds):
                return await self._exchange(data, shape, boxes=boxes, thumbnail=thumbnail)
        except (OSError, EOFError) as error:
            late = isinstance(error, TimeoutError)
            reason = f"took longer than {self._seconds:g} s" if late else "crashed its decoder"
            _log.warning("a photograph of %d bytes %s: the decoder is started again", len(data), reason)
            await asyncio.to_thread(self.end)
            self.start()
            if late or not again:
                fault = ImageDecodeError(f"the picture is damaged: it {reason}. Copy or save it again")
                return [fault] * len(boxes)
        return await self.decode(data, shape, boxes=boxes, thumbnail=thumbnail, again=False)

    async def _exchange(
        self, data: bytes, shape: tuple[int, ...], *, boxes: Sequence[Box | None], thumbnail: bool
    ) -> list[Decoded]:
        head = REQUEST_HEADER.pack(thumbnail, len(data), len(boxes))
        head += b"".join(BOX.pack(*(box or NO_BOX)) for box in boxes)
        await asyncio.get_running_loop().sock_sendall(self.socket, head + data)
        found, rest = [], b""
        for _ in boxes:
            one, rest = await self._read_answer(shape, rest)
            found.append(one)
        if rest:
            raise EOFError("an answer longer than it says")
        return found

    async def _read_answer(self, shape: tuple[int, ...], received: bytes) -> tuple[Decoded, bytes]:
        """Return the next answer, and what was received of the one after it."""
        pixels = math.prod(shape)
        answer = bytearray(max(ANSWER_HEADER.size + pixels, len(received)))
        answer[: len(received)] = received
        # Mostly all of it comes at once: each turn of the loop has its price.
        came = await self._receive(answer, len(received), ANSWER_HEADER.size)
        kind, *numbers = ANSWER_HEADER.unpack_from(answer)
        length = ANSWER_HEADER.size + _body_length(kind, numbers, shape)
        answer.extend(bytes(max(0, length - len(answer))))
        came = await self._receive(answer, came, length)
        body, rest = memoryview(answer)[ANSWER_HEADER.size : length], bytes(answer[length:came])
        if kind != DECODED:
            return REFUSALS.get(kind, ImageDecodeError)(str(body, "utf-8", "replace")), rest
        array = np.frombuffer(body, np.uint8, pixels).reshape(shape)
        return DecodedImage(array, bytes(body[pixels:]), (numbers[3], numbers[4])), rest

    async def _receive(self, answer: bytearray, came: int, least: int) -> int:
        """Receive until `least` bytes of the answer are there; return how many there are."""
        loop = asyncio.get_running_loop()
        while came < least:
            count = await loop.sock_recv_into(self.socket, memoryview(answer)[came:])
            if not count:
                raise EOFError("the decoder has ended")
            came += count
        return came

    def end(self) -> None:
        """Ends the process."""
        self.running.kill()
        self.socket.close()
        self.running.wait()


def _body_length(kind: int, numbers: list[int], shape: tuple[int, ...]) -> int:
    """Return the number of bytes behind the head of an answer."""
    if kind != DECODED:
        if numbers[0] > _MAX_MESSAGE_BYTES:
            raise EOFError("an answer without an end")
        return numbers[0]
    if (*numbers[:2], 3) != shape or numbers[2] > _MAX_THUMBNAIL_BYTES:
        raise EOFError("an answer of another shape")
    return math.prod(shape) + numbers[2]
