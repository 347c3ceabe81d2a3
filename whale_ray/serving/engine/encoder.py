"""Encoder of the service: single images, embedded in batches in this process or by another one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from whale_ray.inference.predictor import Bundle
from whale_ray.retrieval.search.exact_search import use_threads
from whale_ray.serving.engine.micro_batcher import MicroBatcher, StallDetector
from whale_ray.serving.metrics import observe


class Embedder(Protocol):
    """An encoder in this process or another one."""

    async def embed(self, array: np.ndarray) -> np.ndarray:
        """Return the unit embedding (D,) of one prepared image."""

    async def fault(self) -> str | None:
        """Return why this encoder will not answer soon; None if it will."""


class LocalEncoder:
    """Embeds single images, batched with whatever else waits, in this process.

    Args:
        bundle: The bundle.
        threads: Threads of a forward pass, and of searches beside it.
        batch: Largest batch.
    """

    def __init__(self, bundle: Bundle, *, threads: int, batch: int) -> None:
        self._bundle, self._pace = bundle, StallDetector()
        self.thread = ThreadPoolExecutor(1, "model", _use_threads, (threads,))
        self.batcher = MicroBatcher(self.embed_now, most=batch, thread=self.thread)

    @property
    def has_device(self) -> bool:
        """Return whether the encoder runs on a device other than the CPU."""
        return self._bundle.device != "cpu"

    def embed_now(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Return the unit embeddings (D,) of prepared images; call it on `thread`."""
        observe("whale_ray_batch_size", len(arrays), stage="embed")
        with self._pace.running(len(arrays)):
            return list(self._bundle.embed(arrays))

    async def embed(self, array: np.ndarray) -> np.ndarray:
        """Return the unit embedding (D,) of one prepared image."""
        return await self.batcher.submit(array)

    async def fault(self) -> str | None:
        """Return why this encoder will not answer soon; None if it will."""
        if self._pace.is_stuck:
            return "a forward pass does not end"
        return "forward passes fail" if self._pace.is_failing else None


def _use_threads(count: int) -> None:
    """Has forward passes and searches on the calling thread use so many: torch and faiss keep it a thread."""
    import torch

    torch.set_num_threads(count)
    use_threads(count)
