"""Pool of decoder processes: a crash or hang ends one process, not the service."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
import weakref
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from whale_ray.data.image_io import FILL, Box, Geometry
from whale_ray.errors import ImageDecodeError, ImageError
from whale_ray.serving.engine.decoder_messages import (
    ANSWER_HEADER,
    NO_LOCAL,
    AnswerReader,
    Decoded,
    DecodedImage,
    DecodeRequest,
)

DECODE_SECONDS = 20.0
_log = logging.getLogger(__name__)


class DecoderPool:
    """Decodes `count` images in parallel, each within limits on bytes, pixels and seconds.

    Args:
        geometry: Size and margin of the encoder's input.
        count: Number of processes.
        bytes_: Largest image file in bytes.
        pixels: Largest number of pixels of an image.
        seconds: Time limit of a request.
        fill: Gray value around an image that does not fill the input, 0 to 255.
        local: Kind of the keypoints that are searched on request, `sift`, `orb` or of a network; `none` for none.
        network: ONNX file of the network that finds them; None for `sift` and `orb`.
        command: Command of a process; its settings are added as the last argument.

    Attributes:
        local: Kind of the keypoints.
    """

    def __init__(
        self,
        geometry: Geometry,
        *,
        count: int,
        bytes_: int,
        pixels: int,
        seconds: float = DECODE_SECONDS,
        fill: int = FILL,
        local: str = NO_LOCAL,
        network: Path | None = None,
        command: Sequence[str] = (sys.executable, "-m", "whale_ray.serving.engine.decoder_process"),
    ) -> None:
        settings = json.dumps(
            {"geometry": asdict(geometry), "fill": fill, "local": local, "bytes": bytes_, "pixels": pixels}
            | {"network": None if network is None else str(network)}
        )
        self.local = local
        self._most_bytes, reader = bytes_, AnswerReader((*geometry.stored, 3), local)
        processes = [_DecoderProcess([*command, settings], reader, seconds) for _ in range(count)]
        self._idle: asyncio.LifoQueue[_DecoderProcess] = asyncio.LifoQueue()  # the last one is warm
        for process in processes:
            self._idle.put_nowait(process)
        self._at_work: set[asyncio.Task[list[Decoded]]] = set()
        self._end = weakref.finalize(self, _kill_all, processes)

    async def decode(
        self, data: bytes, *, box: Box | None = None, thumbnail: bool = False, keypoints: bool = False
    ) -> DecodedImage:
        """Return the image fitted to the encoder's input size.

        Args:
            data: The image file.
            box: x0, y0, x1, y1 in pixels of the upright image; None for all of it.
            thumbnail: Make a thumbnail.
            keypoints: Search keypoints, if the pool has a kind of them.

        Raises:
            ImageError: If the image cannot be used.
        """
        (found,) = await self.decode_boxes(data, [box], thumbnail=thumbnail, keypoints=keypoints)
        if isinstance(found, ImageError):
            raise found
        return found

    async def decode_boxes(
        self, data: bytes, boxes: Sequence[Box | None], *, thumbnail: bool = False, keypoints: bool = False
    ) -> list[Decoded]:
        """Return each box of an image fitted to the encoder's input size; the image is decoded once.

        Args:
            data: The image file.
            boxes: As in `decode`.
            thumbnail: Make a thumbnail of each box.
            keypoints: Search keypoints in each box, if the pool has a kind of them.

        Returns:
            For each box the decoded image, or the error if it cannot be used.
        """
        # One byte too many is enough for the decoder to refuse it.
        request = DecodeRequest(data[: self._most_bytes + 1], boxes, thumbnail, keypoints)
        process = await self._idle.get()
        task = asyncio.create_task(self._decode(process, request))
        self._at_work.add(task)
        task.add_done_callback(self._at_work.discard)
        return await asyncio.shield(task)  # a cancelled caller must not leave a half-read answer

    async def _decode(self, process: _DecoderProcess, request: DecodeRequest) -> list[Decoded]:
        try:
            return await process.decode(request)
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

    def __init__(self, command: Sequence[str], reader: AnswerReader, seconds: float) -> None:
        self._command, self._reader, self._seconds = command, reader, seconds
        self.start()

    def start(self) -> None:
        """Start the process."""
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

    async def decode(self, request: DecodeRequest, *, again: bool = True) -> list[Decoded]:
        """Return the decoded image, or the error, of each box.

        Args:
            request: The request.
            again: Retry once after a crash, which may have had another cause such as low memory.
        """
        try:
            async with asyncio.timeout(self._seconds):
                return await self._exchange(request)
        except (OSError, EOFError) as error:
            late = isinstance(error, TimeoutError)
            reason = f"took longer than {self._seconds:g} s" if late else "crashed its decoder"
            _log.warning("a photograph of %d bytes %s: the decoder is started again", len(request.data), reason)
            await asyncio.to_thread(self.end)
            self.start()
            if late or not again:
                fault = ImageDecodeError(f"the picture is damaged: it {reason}. Copy or save it again")
                return [fault] * len(request.boxes)
        return await self.decode(request, again=False)

    async def _exchange(self, request: DecodeRequest) -> list[Decoded]:
        await asyncio.get_running_loop().sock_sendall(self.socket, request.packed())
        found, rest = [], b""
        for _ in request.boxes:
            one, rest = await self._read_answer(rest, keypoints=request.keypoints)
            found.append(one)
        if rest:
            raise EOFError("an answer longer than it says")
        return found

    async def _read_answer(self, received: bytes, *, keypoints: bool) -> tuple[Decoded, bytes]:
        """Return the next answer, and what was received of the one after it."""
        answer = bytearray(max(ANSWER_HEADER.size + self._reader.pixels, len(received)))
        answer[: len(received)] = received
        # Mostly all of it comes at once: each turn of the loop has its price.
        came = await self._receive(answer, len(received), ANSWER_HEADER.size)
        kind, *numbers = ANSWER_HEADER.unpack_from(answer)
        length = ANSWER_HEADER.size + self._reader.body_length(kind, numbers)
        answer.extend(bytes(max(0, length - len(answer))))
        came = await self._receive(answer, came, length)
        body, rest = memoryview(answer)[ANSWER_HEADER.size : length], bytes(answer[length:came])
        return self._reader.read(kind, numbers, body, keypoints=keypoints), rest

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
        """End the process."""
        self.running.kill()
        self.socket.close()
        self.running.wait()
