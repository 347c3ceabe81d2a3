"""The deployments of the service: the ingress that takes calls, and how it is bound together with what runs apart.

Knows ray.serve's deployments; the web application itself stands in `web`, what is deployed in `settings`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import httpx
from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from whale_ray.inference.bundle import read_bundle
from whale_ray.inference.predictor import Bundle
from whale_ray.ray_private import proxy_hosts, set_deployment_version
from whale_ray.serving.auth.api_keys import ApiKeys, read_keys
from whale_ray.serving.deployment.encoder_replicas import EncoderDeployment, RemoteEncoder
from whale_ray.serving.deployment.factories import checked_encoder, open_store, recogniser_of
from whale_ray.serving.deployment.network import KEY_VARIABLE, check_exposure
from whale_ray.serving.deployment.ray_metrics import RayMetrics
from whale_ray.serving.deployment.settings import PageSettings, ServeSettings
from whale_ray.serving.deployment.shadow import Shadow, ShadowCaller
from whale_ray.serving.engine.recognizer import Embedder, Encoder
from whale_ray.serving.gallery.review_queue import KeptQueries
from whale_ray.serving.http.app import build_web
from whale_ray.serving.http.model_service import Service
from whale_ray.serving.metrics import tell

NAME = "whale_ray"
PAGE_NAME = "page"
_NO_LIMIT = 10_000
_NO_RESTART = {
    "replicas",
    "max_replicas",
    "encoder_replicas",
    "max_encoder_replicas",
    "busy",
    "upscale_delay",
    "downscale_delay",
    "surge",
}


class Ingress:
    """The process that takes calls: it decodes and searches, and encodes what has no deployment of its own.

    It is ready when its bundles are loaded, checked, and the encoders apart answer. `kept`: encoders that older
    processes of the ingress still ask while this one comes.
    """

    async def __init__(  # type: ignore[misc]  # Ray Serve waits for it
        self,
        settings: ServeSettings,
        keys: ApiKeys,
        encoders: Mapping[str, DeploymentHandle],
        shadow: DeploymentHandle | None,
        kept: tuple[DeploymentHandle, ...],
    ) -> None:
        self._settings = settings
        self._keys = entered(keys, settings)
        tell(RayMetrics())
        self._store = open_store(settings.store)
        self._shadow = None if shadow is None else ShadowCaller(shadow, most=settings.batch)
        self._services = {
            name: await self._service(name, path, encoders.get(name)) for name, path in settings.bundles.items()
        }
        if self._shadow is not None:
            next(iter(self._services.values())).on_answer = self._shadow.offer

    async def _service(self, name: str, path: Path, handle: DeploymentHandle | None) -> Service:
        settings = self._settings
        encoder: Embedder
        if handle is None:
            bundle, encoder = checked_encoder(path, settings)
        else:
            encoder = RemoteEncoder(handle, patience=settings.patience)
            bundle = Bundle.without_encoder(path)
            bundle.runtime = await encoder.ready()
        return Service(
            bundle,
            recogniser_of(bundle, encoder, settings, self._store),
            limits=settings.limits,
            most_calls=settings.calls,
            kept=KeptQueries(self._store) if self._store and settings.keep_queries else None,
            name="" if name == next(iter(settings.bundles)) else name,
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        agreement = None if self._shadow is None else self._shadow.agreement
        self._web = build_web(
            self._services, self._settings.access_policy(self._keys), shadow=agreement, page=_page_is_there, echoed=True
        )
        return self._web

    async def call(
        self, method: str, address: str, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """Answers a call of the web page's as if it had come by HTTP: status, headers and body."""
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self._web), base_url="http://localhost") as client:
            answer = await client.request(method, address, headers=headers, content=body)
        return answer.status_code, answer.headers.raw, answer.content

    async def check_health(self) -> None:
        """Raises where Ray Serve should start another process instead; a remote encoder's fault is no reason."""
        for service in self._services.values():
            encoder = service.recogniser.encoder
            if isinstance(encoder, Encoder) and (reason := await encoder.fault()):
                raise RuntimeError(reason)

    async def deployed(self) -> tuple[ServeSettings, ApiKeys]:
        """The settings that are deployed, and the keys that callers bring."""
        return self._settings, self._keys


def entered(keys: ApiKeys, settings: PageSettings) -> ApiKeys:
    """The keys that callers of this process must bring.

    Raises: InputError where others than this machine could call without one, and nobody wanted that.
    """
    # The variable on the replica's own machine counts too: a cluster's key must not be lost on the way.
    keys = keys or read_keys(None, os.environ.get(KEY_VARIABLE))
    check_exposure(proxy_hosts(), keyless=not keys, insecure=settings.insecure)
    return keys


async def _page_is_there() -> bool:
    page = (await asyncio.to_thread(serve.status)).applications.get(PAGE_NAME)
    return page is not None and page.status == "RUNNING"


def application(settings: ServeSettings, *, keys: ApiKeys, kept: tuple[Path, ...] = ()) -> serve.Application:
    """The deployments of these settings, bound together.

    keys: those that callers must bring. kept: bundles whose encoders stay beside those of the settings.

    Raises: BundleError where a bundle's files are not whole.
    """
    settings = settings.resolved()
    ids = {path: read_bundle(path).manifest["id"] for path in (*settings.bundles.values(), *kept)}
    apart = settings.apart
    made = {path: _encoder_deployment(path, ids[path], settings) for path in (*apart.values(), *kept)}
    encoders = {name: made[path] for name, path in apart.items()}
    shadow = None if settings.shadow is None else _shadow_deployment(settings)
    state = _version(settings.model_dump_json(exclude=_NO_RESTART), *map(str, ids.items()), keys.fingerprint)
    ingress = _deployment(serve.ingress()(Ingress), NAME, settings, taking=True, encodes=settings.shape == "joined")
    return versioned(ingress, state).bind(settings, keys, encoders, shadow, tuple(made[path] for path in kept))


def _encoder_deployment(path: Path, id_: str, settings: ServeSettings) -> serve.Application:
    deployment = _deployment(EncoderDeployment, f"encoder-{id_}", settings, taking=False, encodes=True)
    state = _version(id_, str(path), *(str(getattr(settings, name)) for name in ("threads", "gpus", "batch")))
    return versioned(deployment, state).bind(path, settings)


def _shadow_deployment(settings: ServeSettings) -> serve.Application:
    assert settings.shadow is not None
    id_ = read_bundle(settings.shadow).manifest["id"]
    one = settings.model_copy(update={"encoder_replicas": 1, "max_encoder_replicas": None})
    deployment = _deployment(Shadow, f"shadow-{id_}", one, taking=False, encodes=True)
    return versioned(deployment, _version(id_, str(settings.shadow))).bind(settings.shadow, settings)


def _deployment(kind: type, name: str, settings: ServeSettings, *, taking: bool, encodes: bool) -> serve.Deployment:
    """The class as a deployment. taking: the calls of the service. encodes: it runs an encoder itself."""
    if taking:
        least, most = settings.replicas, settings.max_replicas
    else:
        least, most = settings.encoder_replicas, settings.max_encoder_replicas
    looked_back = min(30.0, max(1.0, settings.upscale_delay))  # Ray's own 30 s, or no more than may pass
    scaling = {
        "min_replicas": least,
        "max_replicas": most,
        "target_ongoing_requests": settings.busy,
        "upscale_delay_s": settings.upscale_delay,
        "downscale_delay_s": settings.downscale_delay,
        "look_back_period_s": looked_back,
        "metrics_interval_s": looked_back / 3,
    }
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


def versioned(deployment: serve.Deployment, state: str) -> serve.Deployment:
    """The deployment with a version of ours, so that deploying it again unchanged restarts none of its processes."""
    return set_deployment_version(deployment, state)


def _version(*parts: str) -> str:
    return hashlib.sha256("\n".join((version("whale-ray"), *parts)).encode()).hexdigest()[:16]
