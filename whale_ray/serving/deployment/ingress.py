"""Ingress replica: answers HTTP calls, decodes, searches, and encodes for a model without an encoder deployment.

`whale-ray deploy` imports this module to describe the deployment, so PyTorch is imported in the replica only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI
from ray.serve.handle import DeploymentHandle

from whale_ray.ray_private import proxy_hosts
from whale_ray.serving.auth.api_keys import ApiKeys, read_keys
from whale_ray.serving.deployment.encoder_replicas import RemoteEncoder
from whale_ray.serving.deployment.host_and_port_checks import KEY_VARIABLE, check_exposure
from whale_ray.serving.deployment.ray_metrics import RayMetrics
from whale_ray.serving.deployment.settings import ServeSettings
from whale_ray.serving.deployment.shadow import ShadowCaller
from whale_ray.serving.metrics import set_sink

if TYPE_CHECKING:
    from whale_ray.serving.engine.encoder import Embedder
    from whale_ray.serving.http.model_service import ModelService


class Ingress:
    """Process that takes the calls of the service.

    It is ready once its bundles are loaded and checked and all remote encoders answer.
    """

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits it
        self,
        settings: ServeSettings,
        keys: ApiKeys,
        encoders: Mapping[str, DeploymentHandle],
        shadow: DeploymentHandle | None,
        kept: tuple[DeploymentHandle, ...],
    ) -> None:
        """Load the bundles.

        Args:
            settings: Settings of the service.
            keys: ApiKeys that callers must send.
            encoders: Model name → handle of its encoder, for models whose encoder is a deployment.
            shadow: Handle of the shadow, if there is one.
            kept: Encoders that older ingress replicas still call. The reference keeps Ray from removing them.
        """
        from whale_ray.serving.deployment.replica_components import open_finder, open_store

        self._settings = settings
        self._keys = keys_in_force(keys, insecure=settings.insecure)
        set_sink(RayMetrics())
        self._store, self._finder = open_store(settings.store), open_finder(settings)
        self._shadow = None if shadow is None else ShadowCaller(shadow, most=settings.batch)
        self._services = {
            name: await self._service(name, path, encoders.get(name)) for name, path in settings.bundles.items()
        }
        if self._shadow is not None:
            next(iter(self._services.values())).on_answer = self._shadow.offer

    async def _service(self, name: str, path: Path, handle: DeploymentHandle | None) -> ModelService:
        from whale_ray.inference.predictor import Bundle
        from whale_ray.serving.deployment.replica_components import load_encoder, make_recogniser
        from whale_ray.serving.gallery.review.review_queue import ReviewQueue
        from whale_ray.serving.http.model_service import ModelService

        settings = self._settings
        encoder: Embedder
        if handle is None:
            bundle, encoder = load_encoder(path, settings)
        else:
            encoder = RemoteEncoder(handle, patience=settings.patience)
            bundle = Bundle.without_encoder(settings.sources.replica_folder(path))
            bundle.runtime = await encoder.ready()
        return ModelService(
            bundle,
            make_recogniser(bundle, encoder, settings, self._store),
            limits=settings.limits,
            most_calls=settings.calls,
            finder=self._finder if bundle.contents.is_trained_on_boxes else None,
            review_queue=ReviewQueue(self._store) if self._store and settings.keep_queries else None,
            name="" if name == next(iter(settings.bundles)) else name,
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        from whale_ray.serving.http.app import build_app

        agreement = None if self._shadow is None else self._shadow.agreement
        policy = self._settings.access_policy(self._keys)
        return build_app(self._services, policy, shadow=agreement, page=self._settings.page, echoed=True)

    async def check_health(self) -> None:
        """Raise RuntimeError if Ray Serve should replace this process; a fault of a remote encoder is no reason."""
        for service in self._services.values():
            encoder = service.recognizer.encoder
            if not isinstance(encoder, RemoteEncoder) and (reason := await encoder.fault()):
                raise RuntimeError(reason)

    async def deployed(self) -> tuple[ServeSettings, ApiKeys]:
        """Return the settings and keys that are deployed."""
        return self._settings, self._keys


def keys_in_force(keys: ApiKeys, *, insecure: bool) -> ApiKeys:
    """Return the keys that callers of this replica must send.

    Args:
        keys: ApiKeys of the deployment. If there are none, the key in this machine's environment counts.
        insecure: Allow calls from other machines without a key.

    Raises:
        InputError: If other machines could call without a key and `insecure` is false.
    """
    keys = keys or read_keys(None, os.environ.get(KEY_VARIABLE))
    check_exposure(proxy_hosts(), keyless=not keys, insecure=insecure)
    return keys
