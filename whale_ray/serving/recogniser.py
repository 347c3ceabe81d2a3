"""A bundle that answers many callers at once: decoding beside the event loop, one forward pass for all that wait.

Knows a bundle and asyncio; knows no HTTP and no Ray.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar

import numpy as np

from whale_ray.errors import ImageError, StoreError
from whale_ray.identification import Identification
from whale_ray.identify import Bundle
from whale_ray.retrieval.candidates import use_threads
from whale_ray.serving.catalogue import Catalogue, Standing
from whale_ray.serving.decoding import Decoders
from whale_ray.serving.enrolment import Entry
from whale_ray.serving.telemetry import observe, stage

Item = TypeVar("Item")
Result = TypeVar("Result")
_STUCK_SECONDS = 20.0
_TOGETHER = 256  # enrolled pictures embedded before the gallery is made anew
_log = logging.getLogger(__name__)


class Batcher(Generic[Item, Result]):
    """Runs `run` on a thread, each time on all items that wait, up to `most`; it never waits for more to come."""

    def __init__(
        self, run: Callable[[list[Item]], Sequence[Result]], *, most: int, thread: Executor, name: str = "batch"
    ) -> None:
        self._run, self._most, self._thread, self._name = run, most, thread, name
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._began: float | None = None
        self._patience = _STUCK_SECONDS
        self._paces: deque[float] = deque(maxlen=50)  # seconds an item
        self.sizes: deque[int] = deque(maxlen=1000)

    @property
    def is_stuck(self) -> bool:
        """Whether the batch that runs now takes far longer than any of its size did before."""
        return self._began is not None and time.monotonic() - self._began > self._patience

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
        observe("whale_ray_batch_size", len(batch), stage=self._name)
        loop = asyncio.get_running_loop()
        self._began, self._patience = time.monotonic(), _STUCK_SECONDS + 3 * len(batch) * max(self._paces, default=0.0)
        try:
            results = await loop.run_in_executor(self._thread, self._run, [item for item, _ in batch])
            self._paces.append((time.monotonic() - self._began) / len(batch))
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, StoreError):  # one of them must not take the others with it
                for single in batch:
                    await self._answer([single])
                return
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        finally:
            self._began = None
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)


class Encoder:
    """Embeds single photographs, each together with whatever else waits; in the ingress, or behind a handle.

    threads: of torch. batch: photographs embedded together at most.
    """

    def __init__(self, bundle: Bundle, *, threads: int, batch: int) -> None:
        import torch

        # torch keeps the number of threads for each thread that calls it
        thread = ThreadPoolExecutor(1, "model", torch.set_num_threads, (threads,))
        self.batcher: Batcher[np.ndarray, np.ndarray] = Batcher(
            lambda arrays: list(bundle.embed(arrays)), most=batch, thread=thread, name="embed"
        )

    async def embed(self, array: np.ndarray) -> np.ndarray:
        """The unit embedding (D,) of one prepared photograph."""
        return await self.batcher.submit(array)

    async def fault(self) -> str | None:
        """Why this encoder will not answer soon; None where it will."""
        return "a forward pass does not end" if self.batcher.is_stuck else None


class Embedder(Protocol):
    """An encoder, here or in another process."""

    async def embed(self, array: np.ndarray) -> np.ndarray:
        """The unit embedding (D,) of one prepared photograph."""

    async def fault(self) -> str | None:
        """Why this encoder will not answer soon; None where it will."""


class Recogniser:
    """Answers for single photographs: decoded beside the event loop, embedded by `encoder`, searched in `catalogue`.

    threads: of a search. batch: searched together at most.
    """

    def __init__(
        self, catalogue: Catalogue, encoder: Embedder, decoders: Decoders, *, threads: int, batch: int
    ) -> None:
        self.catalogue, self.encoder, self.decoders = catalogue, encoder, decoders
        search = ThreadPoolExecutor(1, "search", use_threads, (threads,))
        self._search: Batcher[tuple[np.ndarray, int], tuple[Identification, bool]] = Batcher(
            self._rank, most=batch, thread=search, name="search"
        )
        self._catching_up = asyncio.Lock()

    async def fault(self) -> str | None:
        """Why calls will not be answered soon; None where they will."""
        return "a search does not end" if self._search.is_stuck else await self.encoder.fault()

    async def identify(self, data: bytes, *, top: int) -> Identification:
        """The answer for one photograph, `top` individuals.

        Raises: ImageError where it cannot be used; StoreError where it is not known what was enrolled.
        """
        return await self.rank(await self.embed(data), top=top)

    async def embed(self, data: bytes) -> np.ndarray:
        """The unit embedding (D,) of one photograph. Raises: ImageError where it cannot be used."""
        with stage("decode"):
            decoded = await self.decoders.decode(data)
        with stage("embed"):
            return await self.encoder.embed(decoded.array)

    async def rank(self, vector: np.ndarray, *, top: int) -> Identification:
        """The answer for one embedding (D,), `top` individuals. Raises: StoreError as `identify`."""
        with stage("search"):
            found, complete = await self._search.submit((vector, top))
        if not complete:
            await self.standing()
            found, _ = await self._search.submit((vector, top))
        return found

    async def standing(self) -> Standing:
        """The gallery as it stands, complete: what another bundle enrolled is embedded with this one's encoder first.

        Raises: StoreError where the store does not answer.
        """
        standing = await asyncio.to_thread(self.catalogue.current)
        if not standing.missing:
            return standing
        async with self._catching_up:
            standing = await asyncio.to_thread(self.catalogue.current)
            for start in range(0, len(standing.missing), _TOGETHER):
                await self._catch_up(standing.missing[start : start + _TOGETHER])
        return await asyncio.to_thread(self.catalogue.current)

    async def _catch_up(self, entries: Sequence[Entry]) -> None:
        vectors = await asyncio.gather(*map(self._vector_of, entries))
        found = {entry.digest: one for entry, one in zip(entries, vectors, strict=True) if one is not None}
        await asyncio.to_thread(self.catalogue.learn, found)

    async def _vector_of(self, entry: Entry) -> np.ndarray | None:
        """The embedding (D,) of an enrolled picture; None where it was forgotten or cannot be decoded here."""
        assert self.catalogue.store is not None
        data = await asyncio.to_thread(self.catalogue.store.picture, entry.image)
        if data is None:
            return None
        try:
            decoded = await self.decoders.decode(data)
        except ImageError:
            _log.warning("%s was enrolled, but cannot be decoded here: it is left out", entry.image, exc_info=True)
            await asyncio.to_thread(self.catalogue.leave_out, entry)
            return None
        return await self.encoder.embed(decoded.array)

    def _rank(self, asked: list[tuple[np.ndarray, int]]) -> list[tuple[Identification, bool]]:
        """The first individuals for each vector, and whether they were looked for among everything that is enrolled."""
        standing = self.catalogue.current()
        vectors, tops = zip(*asked, strict=True)
        found = self.catalogue.bundle.rank(np.stack(vectors), top=max(tops), gallery=standing.gallery)
        return [(one.first(top), not standing.missing) for one, top in zip(found, tops, strict=True)]
