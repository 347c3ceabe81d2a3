"""What runs in processes of its own beside the ingress, encoders and a shadow, and how the ingress asks them.

Knows the handles of ray.serve and what dies behind them; knows no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
from ray.exceptions import RayActorError
from ray.serve.exceptions import DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from whale_ray.serving.deployment.factories import checked_encoder
from whale_ray.serving.deployment.ray_metrics import RayMetrics
from whale_ray.serving.deployment.settings import ServeSettings
from whale_ray.serving.metrics import tell
from whale_ray.serving.schemas import RefusalError

_DIED = (RayActorError, DeploymentUnavailableError, ReplicaUnavailableError)
_PAUSE = 0.1
_log = logging.getLogger(__name__)


class EncoderDeployment:
    """An encoder in a process of its own, for `split`, and for models that are not the default."""

    def __init__(self, path: Path, settings: ServeSettings) -> None:
        tell(RayMetrics())
        self._bundle, self._encoder = checked_encoder(path, settings)

    async def embed(self, array: np.ndarray) -> np.ndarray:
        """The unit embedding (D,) of one prepared photograph."""
        return await self._encoder.embed(array)

    async def runtime(self) -> str:
        """What runs the encoder here; answered once it is ready."""
        return self._bundle.runtime

    async def fault(self) -> str | None:
        """Why it will not answer soon; None where it will."""
        return await self._encoder.fault()

    async def check_health(self) -> None:
        """Raises where Ray Serve should start another process instead."""
        if reason := await self.fault():
            raise RuntimeError(reason)


class RemoteEncoder:
    """Asks an encoder's deployment, and asks again for `patience` seconds where its process died meanwhile."""

    def __init__(self, handle: DeploymentHandle, *, patience: float) -> None:
        self._handle, self._patience = handle, patience

    async def embed(self, array: np.ndarray) -> np.ndarray:
        """The unit embedding (D,) of one prepared photograph.

        Raises: RefusalError 503 where no process answers in time.
        """
        until = time.monotonic() + self._patience
        while True:
            try:
                vector: np.ndarray = await self._handle.embed.remote(array)
            except _DIED as error:
                if time.monotonic() > until:
                    detail = "the encoder does not answer at present. Try again shortly"
                    raise RefusalError(503, detail, {"Retry-After": "5"}) from error
                await asyncio.sleep(_PAUSE)
            else:
                return vector

    async def fault(self) -> str | None:
        """Why this encoder will not answer soon; None where it will."""
        try:
            return await asyncio.wait_for(_awaited(self._handle.fault.remote()), timeout=2.0)
        except (*_DIED, TimeoutError):
            return "the encoder does not answer at present"

    async def _ask(self) -> str:
        return str(await self._handle.runtime.remote())

    async def ready(self) -> str:
        """What runs the encoder, once a process of it answers."""
        while True:
            try:
                return await self._ask()
            except _DIED:
                await asyncio.sleep(_PAUSE)


async def _awaited(response: Any) -> Any:
    return await response
