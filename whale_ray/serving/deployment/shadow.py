"""What runs in processes of its own beside the ingress, encoders and a shadow, and how the ingress asks them.

Knows the handles of ray.serve and what dies behind them; knows no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

from ray.serve.handle import DeploymentHandle

from whale_ray.inference.predictions import Identification
from whale_ray.serving.deployment.encoder_replicas import _DIED, _awaited
from whale_ray.serving.deployment.factories import checked_encoder, open_store, recogniser_of
from whale_ray.serving.deployment.settings import ServeSettings

_log = logging.getLogger(__name__)


class Shadow:
    """A bundle that answers beside the live one; nobody sees its answers, but how often the two agree is counted."""

    def __init__(self, path: Path, settings: ServeSettings) -> None:
        bundle, encoder = checked_encoder(path, settings)
        self._id = bundle.id
        self._recogniser = recogniser_of(bundle, encoder, settings, open_store(settings.store))
        self._counts = {"compared": 0, "agreed": 0, "failed": 0}

    async def compare(self, data: bytes, live: str | None) -> None:
        """Counts whether this bundle gives the same first individual, None being a new one."""
        try:
            found = await self._recogniser.identify(data, top=1)
        except Exception:
            self._counts["failed"] += 1
            _log.warning("the shadow %s could not answer", self._id, exc_info=True)
            return
        self._counts["compared"] += 1
        self._counts["agreed"] += said(found) == live

    async def agreement(self) -> dict[str, Any]:
        """The shadow's id, how many answers were compared, and the share that agreed."""
        compared = self._counts["compared"]
        return {"id": self._id, **self._counts, "agreement": self._counts["agreed"] / compared if compared else None}


class ShadowCaller:
    """Hands photographs and their live answers on to the shadow, without waiting; what it cannot follow is left out."""

    def __init__(self, handle: DeploymentHandle, *, most: int) -> None:
        self._handle, self._most = handle, most
        self._under_way: set[asyncio.Task[None]] = set()
        self._left_out = 0

    def offer(self, data: bytes, found: Identification) -> None:
        """Lets the shadow answer for this photograph too."""
        if len(self._under_way) >= self._most:
            self._left_out += 1
            return
        task = asyncio.create_task(self._compare(data, said(found)))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _compare(self, data: bytes, live: str | None) -> None:
        try:
            await self._handle.compare.remote(data, live)
        except Exception:
            self._left_out += 1
            _log.warning("the shadow did not answer", exc_info=True)

    async def agreement(self) -> dict[str, Any]:
        """What the shadow has counted, and how many photographs this process left out."""
        try:
            counted: dict[str, Any] = await asyncio.wait_for(_awaited(self._handle.agreement.remote()), timeout=5.0)
        except (*_DIED, TimeoutError):
            counted = {"id": None, "compared": 0, "agreed": 0, "failed": 0, "agreement": None}
        return {**counted, "left_out": self._left_out}


def said(found: Identification) -> str | None:
    """Whom an answer names: the first individual; None where it takes the animal for a new one."""
    return found.candidates[0].individual if found.new_individual.decision == "known" else None
