"""Encoders in processes apart from the ingress, and the ingress' client of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

import numpy as np
from ray.exceptions import RayActorError
from ray.serve.exceptions import DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from whale_ray.serving.deployment.ray_metrics import RayMetrics
from whale_ray.serving.deployment.settings import ServeSettings
from whale_ray.serving.metrics import set_sink
from whale_ray.serving.problem_details import RefusalError

REPLICA_LOST = (RayActorError, DeploymentUnavailableError, ReplicaUnavailableError)
_PAUSE = 0.1
_UNAVAILABLE = "the encoder does not answer at present"
Answer = TypeVar("Answer")


class EncoderReplica:
    """An encoder in a process apart, for `shape: split` and for models that are not the default."""

    def __init__(self, path: Path, settings: ServeSettings) -> None:
        # Imported in the replica: `whale-ray deploy` imports this module without PyTorch.
        from whale_ray.serving.deployment.replica_components import load_encoder

        set_sink(RayMetrics())
        self._bundle, self._encoder = load_encoder(path, settings)

    async def embed(self, array: np.ndarray) -> np.ndarray:
        """Return the unit embedding of one prepared image, float32, shape (D,)."""
        return await self._encoder.embed(array)

    async def runtime(self) -> str:
        """Return the name of the runtime that runs the encoder; the answer comes once the encoder is ready."""
        return self._bundle.runtime

    async def fault(self) -> str | None:
        """Return why the encoder cannot answer soon; None if it can."""
        return await self._encoder.fault()

    async def check_health(self) -> None:
        """Raise RuntimeError if Ray Serve should replace this process."""
        if reason := await self.fault():
            raise RuntimeError(reason)


class RemoteEncoder:
    """Client of an encoder deployment. A call whose replica died is repeated for `patience` seconds."""

    def __init__(self, handle: DeploymentHandle, *, patience: float) -> None:
        self._handle, self._patience = handle, patience

    async def embed(self, array: np.ndarray) -> np.ndarray:
        """Return the unit embedding of one prepared image, float32, shape (D,).

        Raises:
            RefusalError: 503 if no replica answers within `patience` seconds.
        """
        deadline = time.monotonic() + self._patience
        while True:
            try:
                vector: np.ndarray = await self._handle.embed.remote(array)
            except REPLICA_LOST as error:
                if time.monotonic() > deadline:
                    raise RefusalError(503, f"{_UNAVAILABLE}. Try again shortly", {"Retry-After": "5"}) from error
                await asyncio.sleep(_PAUSE)
            else:
                return vector

    async def fault(self) -> str | None:
        """Return why the encoder cannot answer soon; None if it can."""
        try:
            return await asyncio.wait_for(awaited(self._handle.fault.remote()), timeout=2.0)
        except (*REPLICA_LOST, TimeoutError):
            return _UNAVAILABLE

    async def ready(self) -> str:
        """Return the name of the encoder's runtime once a replica answers; wait without limit."""
        while True:
            try:
                return str(await self._handle.runtime.remote())
            except REPLICA_LOST:
                await asyncio.sleep(_PAUSE)


async def awaited(response: Awaitable[Answer]) -> Answer:
    """Return the result of a Ray Serve response, as a coroutine, which `asyncio.wait_for` needs."""
    return await response
