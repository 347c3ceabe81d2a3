"""The deployments of the service: the ingress that takes calls, encoders, a shadow; and how they are bound together.

Knows ray.serve's classes; the web application itself stands in `web`, what is deployed in `settings`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from whale_ray.bundle import read_bundle
from whale_ray.identify import Bundle
from whale_ray.serving.contract import RefusalError
from whale_ray.serving.guard import key_digest
from whale_ray.serving.recogniser import Embedder, Encoder, Recogniser
from whale_ray.serving.settings import ServeSettings
from whale_ray.serving.web import Service, build_web

KEY_VARIABLE = "WHALE_RAY_API_KEY"
NAME = "whale_ray"
_DIED = (RayActorError, DeploymentUnavailableError, ReplicaUnavailableError)
_PAUSE = 0.1
_NO_LIMIT = 10_000
_NO_RESTART = {"replicas", "max_replicas", "encoder_replicas", "max_encoder_replicas", "busy", "surge"}
_log = logging.getLogger(__name__)


def _encoder(path: Path, settings: ServeSettings) -> tuple[Bundle, Encoder]:
    """The bundle, checked by its golden images, and an encoder of its own."""
    bundle = Bundle.load(path, device="cuda" if settings.gpus else "cpu", threads=settings.threads)
    return bundle, Encoder(bundle, threads=settings.threads, batch=settings.batch)


class EncoderDeployment:
    """An encoder in a process of its own, for `split`, and for models that are not the default."""

    def __init__(self, path: Path, settings: ServeSettings) -> None:
        self._bundle, self._encoder = _encoder(path, settings)

    async def embed(self, array: np.ndarray) -> np.ndarray:
        """The unit embedding (D,) of one prepared photograph."""
        return await self._encoder.embed(array)

    async def runtime(self) -> str:
        """What runs the encoder here; answered once it is ready."""
        return self._bundle.runtime

    async def check_health(self) -> None:
        """Raises where Ray Serve should start another process instead."""
        if reason := await self._encoder.fault():
            raise RuntimeError(reason)


class RemoteEncoder:
    """Asks an encoder's deployment, and asks again for `patience` seconds where its process died meanwhile."""

    def __init__(self, handle: DeploymentHandle, *, patience: float) -> None:
        self._handle, self._patience = handle, patience
        self._failing_since: float | None = None

    async def embed(self, array: np.ndarray) -> np.ndarray:
        """The unit embedding (D,) of one prepared photograph.

        Raises: RefusalError 503 where no process answers in time.
        """
        until = time.monotonic() + self._patience
        while True:
            try:
                vector: np.ndarray = await self._handle.embed.remote(array)
            except _DIED as error:
                self._failing_since = self._failing_since or time.monotonic()
                if time.monotonic() > until:
                    detail = "the encoder does not answer at present. Try again shortly"
                    raise RefusalError(503, detail, {"Retry-After": "5"}) from error
                await asyncio.sleep(_PAUSE)
            else:
                self._failing_since = None
                return vector

    async def fault(self) -> str | None:
        """Why this encoder will not answer soon; None where it will."""
        try:
            await asyncio.wait_for(self._ask(), timeout=2.0)
        except (*_DIED, TimeoutError):
            return "the encoder does not answer at present"
        return None

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
        bundle, encoder = _encoder(path, settings)
        self._id = bundle.id
        self._recogniser = _recogniser(bundle, encoder, settings)
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
        self._counts["agreed"] += said(found.new_individual.decision, found.candidates[0].individual) == live

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

    def offer(self, data: bytes, decision: str, individual: str) -> None:
        """Lets the shadow answer for this photograph too."""
        if len(self._under_way) >= self._most:
            self._left_out += 1
            return
        task = asyncio.create_task(self._compare(data, said(decision, individual)))
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


def said(decision: str, individual: str) -> str | None:
    """Whom an answer names: the first individual; None where it takes the animal for a new one."""
    return individual if decision == "known" else None


class Ingress:
    """The process that takes calls: it decodes and searches, and encodes what has no deployment of its own.

    It is ready when its bundles are loaded, checked, and the encoders apart answer. `kept`: encoders that older
    processes of the ingress still ask while this one comes.
    """

    async def __init__(  # type: ignore[misc]  # Ray Serve waits for it
        self,
        settings: ServeSettings,
        digest: bytes | None,
        encoders: Mapping[str, DeploymentHandle],
        shadow: DeploymentHandle | None,
        kept: tuple[DeploymentHandle, ...],
    ) -> None:
        self._settings = settings
        # The variable on the replica's own machine counts too: a cluster's key must not be lost on the way.
        self._digest = digest or key_digest(os.environ.get(KEY_VARIABLE))
        self._shadow = None if shadow is None else ShadowCaller(shadow, most=settings.batch)
        self._services = {
            name: await self._service(path, encoders.get(name)) for name, path in settings.bundles.items()
        }
        if self._shadow is not None:
            next(iter(self._services.values())).on_answer = self._shadow.offer

    async def _service(self, path: Path, handle: DeploymentHandle | None) -> Service:
        settings = self._settings
        encoder: Embedder
        if handle is None:
            bundle, encoder = _encoder(path, settings)
        else:
            encoder = RemoteEncoder(handle, patience=settings.patience)
            bundle = Bundle.without_encoder(path)
            bundle.runtime = await encoder.ready()
        recogniser = _recogniser(bundle, encoder, settings)
        return Service(bundle, recogniser, limits=settings.limits, most_calls=settings.calls)

    def __serve_build_asgi_app__(self) -> FastAPI:
        agreement = None if self._shadow is None else self._shadow.agreement
        return build_web(self._services, digest=self._digest, shadow=agreement)

    async def check_health(self) -> None:
        """Raises where Ray Serve should start another process instead; a remote encoder's fault is no reason."""
        for service in self._services.values():
            encoder = service.recogniser.encoder
            if isinstance(encoder, Encoder) and (reason := await encoder.fault()):
                raise RuntimeError(reason)

    async def deployed(self) -> tuple[ServeSettings, bytes | None]:
        """The settings that are deployed, and the digest of the key that callers bring."""
        return self._settings, self._digest


def _recogniser(bundle: Bundle, encoder: Embedder, settings: ServeSettings) -> Recogniser:
    return Recogniser(
        bundle,
        encoder,
        decoders=settings.decoders,
        batch=settings.batch,
        bytes_=settings.image_bytes,
        pixels=settings.image_pixels,
    )


def application(settings: ServeSettings, *, digest: bytes | None, kept: tuple[Path, ...] = ()) -> serve.Application:
    """The deployments of these settings, bound together.

    digest: of the key that callers must bring. kept: bundles whose encoders stay beside those of the settings.

    Raises: BundleError where a bundle's files are not whole.
    """
    settings = settings.resolved()
    ids = {path: read_bundle(path).manifest["id"] for path in (*settings.bundles.values(), *kept)}
    apart = settings.apart
    made = {path: _encoder_deployment(path, ids[path], settings) for path in (*apart.values(), *kept)}
    encoders = {name: made[path] for name, path in apart.items()}
    shadow = None if settings.shadow is None else _shadow_deployment(settings)
    state = _version(settings.model_dump_json(exclude=_NO_RESTART), *map(str, ids.items()), str(digest))
    ingress = _deployment(serve.ingress()(Ingress), NAME, settings, taking=True, encodes=settings.shape == "joined")
    return _versioned(ingress, state).bind(settings, digest, encoders, shadow, tuple(made[path] for path in kept))


def _encoder_deployment(path: Path, id_: str, settings: ServeSettings) -> serve.Application:
    deployment = _deployment(EncoderDeployment, f"encoder-{id_}", settings, taking=False, encodes=True)
    state = _version(id_, str(path), *(str(getattr(settings, name)) for name in ("threads", "gpus", "batch")))
    return _versioned(deployment, state).bind(path, settings)


def _shadow_deployment(settings: ServeSettings) -> serve.Application:
    assert settings.shadow is not None
    id_ = read_bundle(settings.shadow).manifest["id"]
    one = settings.model_copy(update={"encoder_replicas": 1, "max_encoder_replicas": None})
    deployment = _deployment(Shadow, f"shadow-{id_}", one, taking=False, encodes=True)
    return _versioned(deployment, _version(id_, str(settings.shadow))).bind(settings.shadow, settings)


def _deployment(kind: type, name: str, settings: ServeSettings, *, taking: bool, encodes: bool) -> serve.Deployment:
    """The class as a deployment. taking: the calls of the service. encodes: it runs an encoder itself."""
    if taking:
        least, most = settings.replicas, settings.max_replicas
    else:
        least, most = settings.encoder_replicas, settings.max_encoder_replicas
    scaling = {"min_replicas": least, "max_replicas": most, "target_ongoing_requests": settings.busy}
    # Ray queues nothing: a call too many is refused by the ingress, which can say so as a problem.
    return serve.deployment(
        kind,
        name=name,
        **({"num_replicas": least} if most is None else {"autoscaling_config": scaling}),
        max_ongoing_requests=_NO_LIMIT,
        ray_actor_options={"num_cpus": settings.threads, "num_gpus": settings.gpus if encodes else 0},
        max_surge_percent=min(100, -(-100 * settings.surge // least)),
        max_constructor_retry_count=1,
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )


def _versioned(deployment: serve.Deployment, state: str) -> serve.Deployment:
    """The deployment with a version of ours, so that deploying it again unchanged restarts none of its processes."""
    return deployment.options(version=state, _internal=True)


def _version(*parts: str) -> str:
    return hashlib.sha256("\n".join((version("whale-ray"), *parts)).encode()).hexdigest()[:16]
