"""A bundle that answers many callers at once: decoding beside the event loop, one forward pass for all that wait.

Knows a bundle and asyncio; knows no HTTP and no Ray.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from typing import Generic, TypeVar

import numpy as np

from whale_ray.data.pixels import decode_image
from whale_ray.errors import ImageDecodeError, ImageError
from whale_ray.identify import MOST_CANDIDATES, Bundle, Identification

Item = TypeVar("Item")
Result = TypeVar("Result")
_log = logging.getLogger(__name__)


class Batcher(Generic[Item, Result]):
    """Runs `run` on a thread, each time on all items that wait, up to `most`; it never waits for more to come."""

    def __init__(self, run: Callable[[list[Item]], Sequence[Result]], *, most: int, thread: Executor) -> None:
        self._run, self._most, self._thread = run, most, thread
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self.sizes: deque[int] = deque(maxlen=1000)

    async def submit(self, item: Item) -> Result:
        """The result for this item. An item whose caller has gone is not run."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._drain())
        return await future

    async def _drain(self) -> None:
        while batch := self._take():
            await self._answer(batch)

    def _take(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        while self._waiting and len(batch) < self._most:
            item, future = self._waiting.popleft()
            if not future.done():
                batch.append((item, future))
        return batch

    async def _answer(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        self.sizes.append(len(batch))
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._thread, self._run, [item for item, _ in batch])
        except Exception as error:
            if len(batch) > 1:  # one of them must not take the others with it
                for single in batch:
                    await self._answer([single])
            elif not batch[0][1].done():
                batch[0][1].set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)


class Recogniser:
    """Answers for single photographs, embedded and searched together with whatever else waits.

    threads: of torch. decoders: photographs decoded at once. pixels: the most that a photograph may have.
    """

    def __init__(self, bundle: Bundle, *, threads: int, decoders: int, batch: int, bytes_: int, pixels: int) -> None:
        import torch

        self._bundle, self._bytes, self._pixels = bundle, bytes_, pixels
        self._decoders = ThreadPoolExecutor(decoders, thread_name_prefix="decode")
        # torch keeps the number of threads for each thread that calls it
        model = ThreadPoolExecutor(1, "model", torch.set_num_threads, (threads,))
        self.batcher: Batcher[np.ndarray, Identification] = Batcher(self._recognise, most=batch, thread=model)

    async def identify(self, data: bytes, *, top: int) -> Identification:
        """The answer for one photograph, `top` individuals.

        Raises: ImageError where it cannot be used.
        """
        array = await asyncio.get_running_loop().run_in_executor(self._decoders, self._prepare, data)
        found = await self.batcher.submit(array)
        return replace(found, candidates=found.candidates[:top])

    def _prepare(self, data: bytes) -> np.ndarray:
        try:
            return self._bundle.prepare(decode_image(data, max_bytes=self._bytes, max_pixels=self._pixels))
        except ImageError:
            raise
        except Exception as error:
            # A decoder met something nobody foresaw: that is the picture's fault, and not a fault of the service.
            _log.warning("a picture brought its decoder to fall", exc_info=True)
            raise ImageDecodeError("the picture is damaged. Copy or save it again") from error

    def _recognise(self, arrays: list[np.ndarray]) -> list[Identification]:
        return self._bundle.rank(self._bundle.embed(arrays), top=MOST_CANDIDATES)
