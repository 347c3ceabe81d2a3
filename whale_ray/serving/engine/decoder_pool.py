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

from whale_ray.data.image_io import Box, Geometry
from whale_ray.errors import ImageDecodeError
from whale_ray.serving.engine.decoder_process import ANSWER_HEADER, DECODED, NO_BOX, REFUSALS, REQUEST_HEADER

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
    """

    array: np.ndarray
    thumbnail: bytes


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
        command: Sequence[str] = (sys.executable, "-m", "whale_ray.serving.engine.decoder_process"),
    ) -> None:
        settings = json.dumps({"geometry": asdict(geometry), "bytes": bytes_, "pixels": pixels})
        self._most_bytes, self._shape = bytes_, (*geometry.stored, 3)
        processes = [_DecoderProcess([*command, settings], seconds) for _ in range(count)]
        self._idle: asyncio.LifoQueue[_DecoderProcess] = asyncio.LifoQueue()  # the last one is warm
        for process in processes:
            self._idle.put_nowait(process)
        self._at_work: set[asyncio.Task[DecodedImage]] = set()
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
        process = await self._idle.get()
        task = asyncio.create_task(self._decode(process, data, box, thumbnail))
        self._at_work.add(task)
        task.add_done_callback(self._at_work.discard)
        return await asyncio.shield(task)  # a cancelled caller must not leave a half-read answer

    async def _decode(self, process: _DecoderProcess, data: bytes, box: Box | None, thumbnail: bool) -> DecodedImage:
        try:
            # One byte too many is enough for the decoder to refuse it.
            return await process.decode(data[: self._most_bytes + 1], self._shape, box=box, thumbnail=thumbnail)
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
        self, data: bytes, shape: tuple[int, ...], *, box: Box | None, thumbnail: bool, again: bool = True
    ) -> DecodedImage:
        """Return the decoded image.

        Args:
            data: The image file.
            shape: Shape of the array.
            box: Box of the animal.
            thumbnail: Also return a thumbnail.
            again: Retry once after a crash, which may have had another cause such as low memory.

        Raises:
            ImageError: If the image cannot be used, takes too long or crashes the decoder.
        """
        try:
            async with asyncio.timeout(self._seconds):
                return await self._exchange(data, shape, box=box, thumbnail=thumbnail)
        except (OSError, EOFError) as error:
            late = isinstance(error, TimeoutError)
            reason = f"took longer than {self._seconds:g} s" if late else "crashed its decoder"
            _log.warning("a photograph of %d bytes %s: the decoder is started again", len(data), reason)
            await asyncio.to_thread(self.end)
            self.start()
            if late or not again:
                raise ImageDecodeError(f"the picture is damaged: it {reason}. Copy or save it again") from error
        return await self.decode(data, shape, box=box, thumbnail=thumbnail, again=False)

    async def _exchange(self, data: bytes, shape: tuple[int, ...], *, box: Box | None, thumbnail: bool) -> DecodedImage:
        header = REQUEST_HEADER.pack(thumbnail, len(data), *(box or NO_BOX))
        await asyncio.get_running_loop().sock_sendall(self.socket, header + data)
        pixels = math.prod(shape)
        answer = bytearray(ANSWER_HEADER.size + pixels)
        came = await self._receive(
            answer, 0, ANSWER_HEADER.size
        )  # mostly all of it: each turn of the loop has its price
        kind, *numbers = ANSWER_HEADER.unpack_from(answer)
        length = ANSWER_HEADER.size + _body_length(kind, numbers, shape)
        answer.extend(bytes(max(0, length - len(answer))))
        if await self._receive(answer, came, length) > length:
            raise EOFError("an answer longer than it says")
        body = memoryview(answer)[ANSWER_HEADER.size : length]
        if kind != DECODED:
            raise REFUSALS.get(kind, ImageDecodeError)(str(body, "utf-8", "replace"))
        return DecodedImage(np.frombuffer(body, np.uint8, pixels).reshape(shape), bytes(body[pixels:]))

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
