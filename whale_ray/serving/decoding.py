"""Photographs as the encoder wants them, decoded in processes of their own, each given up where it falls or hangs.

Knows processes and bytes; knows no encoder, no HTTP and no Ray.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import queue
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np

from whale_ray.data.pictures import Geometry
from whale_ray.errors import ImageDecodeError
from whale_ray.serving.decoder import ANSWER, DECODED, REFUSALS, REQUEST

SECONDS = 20.0
_WATCH_SECONDS = 0.2
_LONGEST_MESSAGE = 10_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decoded:
    """array: uint8 (H, W, 3), margin included; thumbnail: a small JPEG, empty where none was asked for."""

    array: np.ndarray
    thumbnail: bytes


class Decoders:
    """Decodes `count` photographs at once. pixels, bytes_: the most that one may have; seconds: that it may take."""

    def __init__(
        self,
        geometry: Geometry,
        *,
        count: int,
        bytes_: int,
        pixels: int,
        seconds: float = SECONDS,
        command: Sequence[str] = (sys.executable, "-m", "whale_ray.serving.decoder"),
    ) -> None:
        settings = json.dumps({"geometry": asdict(geometry), "bytes": bytes_, "pixels": pixels})
        self._most_bytes, self._shape = bytes_, (*geometry.stored, 3)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="decode")
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        processes = [_Process([*command, settings], seconds) for _ in range(count)]
        for process in processes:
            self._idle.put(process)
        ended = threading.Event()
        threading.Thread(target=_watch, args=(processes, ended), name="watch decoders", daemon=True).start()
        self._end = weakref.finalize(self, _end_all, processes, self._threads, ended)

    async def decode(self, data: bytes, *, thumbnail: bool = False) -> Decoded:
        """The photograph fitted to the encoder's size. Raises: ImageError where it cannot be used."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._decode, data, thumbnail)

    def close(self) -> None:
        """Ends the processes."""
        self._end()

    def _decode(self, data: bytes, thumbnail: bool) -> Decoded:
        process = self._idle.get()
        try:
            # One byte too many is enough for the decoder to refuse it.
            return process.decode(data[: self._most_bytes + 1], self._shape, thumbnail=thumbnail)
        finally:
            self._idle.put(process)


def _watch(processes: list[_Process], ended: threading.Event) -> None:
    while not ended.wait(_WATCH_SECONDS):
        for process in processes:
            process.give_up_when_late()


def _end_all(processes: list[_Process], threads: ThreadPoolExecutor, ended: threading.Event) -> None:
    ended.set()
    for process in processes:
        process.end()
    threads.shutdown(wait=False, cancel_futures=True)


class _Process:
    """One decoder, started again after it fell or was ended because it took too long."""

    def __init__(self, command: Sequence[str], seconds: float) -> None:
        self._command, self._seconds = command, seconds
        self._deadline, self._late = math.inf, False
        self._running = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        # Nothing that the service knows, its keys above all, is to be had in there.
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "LD_LIBRARY_PATH")}
        environment = {**kept, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"}
        return subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what libraries say of a hostile file is not for the log
            env=environment,
        )

    def decode(self, data: bytes, shape: tuple[int, ...], *, thumbnail: bool) -> Decoded:
        """The photograph. Raises: ImageError where it cannot be used, takes too long or makes the decoder fall."""
        self._deadline, self._late = time.monotonic() + self._seconds, False
        try:
            return self._exchange(data, shape, thumbnail=thumbnail)
        except (OSError, EOFError) as error:
            reason = f"took longer than {self._seconds:g} s" if self._late else "made its decoder fall"
            _log.warning("a photograph of %d bytes %s: the decoder is started again", len(data), reason)
            self.end()
            self._running = self._start()
            raise ImageDecodeError(f"the picture is damaged: it {reason}. Copy or save it again") from error
        finally:
            self._deadline = math.inf

    def give_up_when_late(self) -> None:
        """Ends the process where it takes too long; whoever waits for it is told."""
        if time.monotonic() > self._deadline:
            self._late = True
            self._running.kill()

    def _exchange(self, data: bytes, shape: tuple[int, ...], *, thumbnail: bool) -> Decoded:
        assert self._running.stdin
        self._running.stdin.write(REQUEST.pack(thumbnail, len(data)))
        self._running.stdin.write(data)
        self._running.stdin.flush()
        kind, *numbers = ANSWER.unpack(self._read(ANSWER.size))
        if kind != DECODED:
            message = self._read(min(numbers[0], _LONGEST_MESSAGE)).decode("utf-8", "replace")
            raise REFUSALS.get(kind, ImageDecodeError)(message)
        if (*numbers[:2], 3) != shape:
            raise EOFError("an answer of another shape")
        pixels = self._read(shape[0] * shape[1] * 3)
        return Decoded(np.frombuffer(pixels, np.uint8).reshape(shape), self._read(numbers[2]))

    def _read(self, length: int) -> bytes:
        assert self._running.stdout
        data = self._running.stdout.read(length)
        if len(data) < length:
            raise EOFError("the decoder has ended")
        return data

    def end(self) -> None:
        """Ends the process."""
        self._running.kill()
        for stream in (self._running.stdin, self._running.stdout):
            if stream:
                try:
                    stream.close()
                except OSError:
                    continue  # what was still to be written to it
        self._running.wait()
