"""The Ray Serve application: deployments of ingress, encoders and shadow, their versions and autoscaling.

It describes processes without starting them and without PyTorch, which only the replicas import.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path

from ray import serve

from whale_ray.errors import InputError
from whale_ray.inference.bundle import read_gallery_table, read_manifest
from whale_ray.inference.bundle_contents import was_trained_on_boxes
from whale_ray.inference.detection.detected_animals import whole_photographs
from whale_ray.inference.detection.detector import Detector
from whale_ray.ray_private import set_deployment_version
from whale_ray.serving.auth.api_keys import ApiKeys
from whale_ray.serving.deployment.encoder_replicas import EncoderReplica
from whale_ray.serving.deployment.ingress import Ingress
from whale_ray.serving.deployment.pulled_bundles import BundleSources
from whale_ray.serving.deployment.settings import ServeSettings
from whale_ray.serving.deployment.shadow import ShadowReplica

NAME = "whale_ray"
_NO_LIMIT = 10_000
_CHANGED_IN_PLACE = {
    "replicas",
    "max_replicas",
    "encoder_replicas",
    "max_encoder_replicas",
    "busy",
    "upscale_delay",
    "downscale_delay",
    "surge",
}


def build_application(settings: ServeSettings, *, keys: ApiKeys, kept: tuple[Path, ...] = ()) -> serve.Application:
    """Return the bound deployments of a service.

    Args:
        settings: Bundles, processes and limits.
        keys: ApiKeys that callers must send.
        kept: Bundles whose encoders stay beside those of the settings, for older ingress replicas.

    Raises:
        BundleError: If a file of a bundle is missing or damaged.
        InputError: If the detector is none, or no bundle was trained on crops.
    """
    settings = settings.resolved()
    sources = settings.sources
    ids = {path: _bundle_id(path, sources) for path in (*settings.bundles.values(), *kept)}
    _check_detector(settings)
    remote = settings.remote_encoders
    encoders = {path: _encoder_deployment(path, ids[path], settings) for path in (*remote.values(), *kept)}
    by_name = {name: encoders[path] for name, path in remote.items()}
    shadow = None if settings.shadow is None else _shadow_deployment(settings.shadow, settings)
    state = _digest(settings.model_dump_json(exclude=_CHANGED_IN_PLACE), *map(str, ids.items()), keys.fingerprint)
    ingress = _deployment(serve.ingress()(Ingress), NAME, settings, is_ingress=True, encodes=settings.shape == "joined")
    return set_deployment_version(ingress, state).bind(
        settings, keys, by_name, shadow, tuple(encoders[path] for path in kept)
    )


def _check_detector(settings: ServeSettings) -> None:
    if settings.detector is None:
        return
    tables = [read_gallery_table(settings.sources.local_folder(path)) for path in settings.bundles.values()]
    if not any(was_trained_on_boxes(manifest, table) for manifest, table in tables):
        raise InputError(whole_photographs(" and ".join(manifest["id"] for manifest, _ in tables)))
    Detector(settings.detector, threads=settings.threads)


def _bundle_id(path: Path, sources: BundleSources) -> str:
    return str(read_manifest(sources.local_folder(path))["id"])


def _encoder_deployment(path: Path, bundle_id: str, settings: ServeSettings) -> serve.Application:
    deployment = _deployment(EncoderReplica, f"encoder-{bundle_id}", settings, is_ingress=False, encodes=True)
    state = _digest(bundle_id, str(path), *(str(getattr(settings, name)) for name in ("threads", "gpus", "batch")))
    return set_deployment_version(deployment, state).bind(path, settings)


def _shadow_deployment(path: Path, settings: ServeSettings) -> serve.Application:
    bundle_id = _bundle_id(path, settings.sources)
    single = settings.model_copy(update={"encoder_replicas": 1, "max_encoder_replicas": None})
    deployment = _deployment(ShadowReplica, f"shadow-{bundle_id}", single, is_ingress=False, encodes=True)
    return set_deployment_version(deployment, _digest(bundle_id, str(path))).bind(path, settings)


def _deployment(kind: type, name: str, settings: ServeSettings, *, is_ingress: bool, encodes: bool) -> serve.Deployment:
    """Return the class as a deployment; `encodes`: its replicas run an encoder and get a share of a GPU."""
    if is_ingress:
        least, most = settings.replicas, settings.max_replicas
    else:
        least, most = settings.encoder_replicas, settings.max_encoder_replicas
    look_back = min(30.0, max(1.0, settings.upscale_delay))  # Ray's own 30 s, or less for a short delay
    autoscaling = {
        "min_replicas": least,
        "max_replicas": most,
        "target_ongoing_requests": settings.busy,
        "upscale_delay_s": settings.upscale_delay,
        "downscale_delay_s": settings.downscale_delay,
        "look_back_period_s": look_back,
        "metrics_interval_s": look_back / 3,
    }
    # Ray queues nothing: the ingress itself refuses excess calls, with a problem+json body.
    return serve.deployment(
        kind,
        name=name,
        **({"num_replicas": least} if most is None else {"autoscaling_config": autoscaling}),
        max_ongoing_requests=_NO_LIMIT,
        ray_actor_options={"num_cpus": settings.threads, "num_gpus": settings.gpus if encodes else 0},
        max_surge_percent=min(100, -(-100 * settings.surge // least)),
        max_constructor_retry_count=1,
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join((version("whale-ray"), *parts)).encode()).hexdigest()[:16]
