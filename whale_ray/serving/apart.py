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
import ray
from ray.exceptions import RayActorError
from ray.serve.exceptions import DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from whale_ray.device import device_for
from whale_ray.errors import StoreError
from whale_ray.identification import Identification
from whale_ray.identify import Bundle
from whale_ray.serving.catalogue import Catalogue
from whale_ray.serving.contract import RefusalError
from whale_ray.serving.decoding import Decoders
from whale_ray.serving.enrolment import EnrolmentStore
from whale_ray.serving.metrics import RayMetrics
from whale_ray.serving.recogniser import Embedder, Encoder, Recogniser
from whale_ray.serving.settings import NO_STORE, STORE_VARIABLE, ServeSettings
from whale_ray.serving.telemetry import tell

_DIED = (RayActorError, DeploymentUnavailableError, ReplicaUnavailableError)
_PAUSE = 0.1
_log = logging.getLogger(__name__)


def checked_encoder(path: Path, settings: ServeSettings) -> tuple[Bundle, Encoder]:
    """The bundle, checked by its golden images, and an encoder of its own."""
    bundle = Bundle.load(path, device=device_for(settings.gpus), threads=settings.threads)
    return bundle, Encoder(bundle, threads=settings.threads, batch=settings.batch)


def recogniser_of(
    bundle: Bundle, encoder: Embedder, settings: ServeSettings, store: EnrolmentStore | None
) -> Recogniser:
    """What answers for single photographs, within the limits of the settings."""
    decoders = Decoders(
        bundle.geometry, count=settings.decoders, bytes_=settings.image_bytes, pixels=settings.image_pixels
    )
    return Recogniser(Catalogue(bundle, store), encoder, decoders, threads=settings.threads, batch=settings.batch)


def open_store(url: str) -> EnrolmentStore | None:
    """The store at `url`. Raises: StoreError where replicas on other machines would have another one."""
    if url == NO_STORE:
        return None
    store = EnrolmentStore(url)
    if store.is_of_one_machine and sum(node["Alive"] for node in ray.nodes()) > 1:
        raise StoreError(
            "replicas on several machines need a store that they share, but SQLite's is a file on one of them. "
            f"Set {STORE_VARIABLE} to postgresql://user@host/name, or to {NO_STORE}"
        )
    return store


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


async def _awaited(response: Any) -> Any:
    return await response


def said(found: Identification) -> str | None:
    """Whom an answer names: the first individual; None where it takes the animal for a new one."""
    return found.candidates[0].individual if found.new_individual.decision == "known" else None
