"""Micro-batching: runs the waiting items together on a worker thread, and detects a stalled or failing worker."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Generic, TypeVar

from whale_ray.errors import StoreError

Item = TypeVar("Item")
Result = TypeVar("Result")
_STALL_SECONDS = 20.0
_MAX_FAILURES = 3


class StallDetector:
    """Detects that a worker takes far longer per item than before, or fails repeatedly. Thread-safe."""

    def __init__(self) -> None:
        self._until: float | None = None
        self._seconds: deque[float] = deque(maxlen=50)  # an item
        self._failed = 0

    @property
    def is_stuck(self) -> bool:
        """True if the running batch has passed its time limit."""
        until = self._until
        return until is not None and time.monotonic() > until

    @property
    def is_failing(self) -> bool:
        """True if at least three batches have failed since the last success."""
        return self._failed >= _MAX_FAILURES

    @contextmanager
    def running(self, items: int) -> Iterator[None]:
        """Time a batch of this number of items."""
        began = time.monotonic()
        self._until = began + _STALL_SECONDS + 3 * items * max(self._seconds, default=0.0)
        try:
            yield
            self._seconds.append((time.monotonic() - began) / items)
            self._failed = 0
        except Exception:
            self._failed += 1
            raise
        finally:
            self._until = None


class MicroBatcher(Generic[Item, Result]):
    """Runs `run` on a thread with all waiting items, at most `most`; it does not wait for further items."""

    def __init__(self, run: Callable[[list[Item]], Sequence[Result]], *, most: int, thread: Executor) -> None:
        self._run, self._most, self._thread = run, most, thread
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Result:
        """Return the result of an item; an item whose caller is cancelled is not run."""
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
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._thread, self._run, [item for item, _ in batch])
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, StoreError):  # one of them must not take the others with it
                for single in batch:
                    await self._answer([single])
                return
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
