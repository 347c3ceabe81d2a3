"""Settings of a service: bundles, processes and limits, from a command line or from deploy/serve.yaml.

The annotations are no strings (no `from __future__ import annotations`): Ray reads them to check the values.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    StringConstraints,
    ValidationError,
    model_validator,
)

from whale_ray.errors import InputError
from whale_ray.file_errors import real_path
from whale_ray.serving.auth.access_control import AccessPolicy
from whale_ray.serving.auth.api_keys import ApiKeys
from whale_ray.serving.deployment.pulled_bundles import BundleSources
from whale_ray.serving.http.uploads import Limits

ONLY = "default"
STORE_VARIABLE = "WHALE_RAY_STORE"
NO_STORE = "none"
_PATHS = ("bundle", "shadow", "keys", "detector")
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


def _default_store() -> str:
    """Return the URL in WHALE_RAY_STORE; else an SQLite file in the current folder."""
    return os.environ.get(STORE_VARIABLE) or f"sqlite:///{Path.cwd() / 'enrolled.db'}"


class ServeSettings(BaseModel):
    """Settings that `serve run serve_app:build KEY=VALUE …`, `whale-ray serve --set` and deploy/serve.yaml take."""

    model_config = ConfigDict(extra="forbid")
    bundle: Path | None = Field(
        default=None,
        description="The bundle, if there is one model: a folder, hf://… or s3://…. Give this or `models`.",
    )
    models: dict[Name, Path] = Field(
        default={}, description="Bundles by name, for several models; `?model=` chooses one."
    )
    default: str | None = Field(default=None, description="Model that answers calls without `?model=`; else the first.")
    shape: Literal["joined", "split"] = Field(
        default="joined",
        description="joined: the process that takes a call also encodes for the default model. split: every encoder "
        "is a deployment. Models that are not the default always have a deployment for their encoder.",
    )
    shadow: Path | None = Field(default=None, description="A bundle that answers silently beside the default model.")
    detector: Path | None = Field(
        default=None,
        description="ONNX file with MegaDetector 5's output convention. It finds the animals of photographs without "
        "boxes, for bundles that were trained on crops.",
    )
    detector_confidence: float = Field(
        default=0.2, gt=0.0, le=1.0, description="Smallest confidence of an animal that the detector finds."
    )
    replicas: int = Field(default=1, ge=1, description="Processes that take calls.")
    max_replicas: int | None = Field(
        default=None, ge=1, description="With this, `replicas` is the minimum of autoscaling."
    )
    encoder_replicas: int = Field(default=1, ge=1, description="Processes of each encoder deployment.")
    max_encoder_replicas: int | None = Field(
        default=None, ge=1, description="As max_replicas, for encoder deployments."
    )
    busy: float = Field(
        default=16.0, gt=0.0, description="Calls in progress in a process above which autoscaling adds one."
    )
    upscale_delay: float = Field(default=30.0, ge=0.0, description="Seconds of high load before a process is added.")
    downscale_delay: float = Field(
        default=600.0, ge=0.0, description="Seconds of low load before a process is removed."
    )
    threads: int = Field(
        default=1, ge=1, description="Threads of an encoding process, and the cores that Ray reserves for it."
    )
    gpus: float = Field(default=0.0, ge=0.0, description="GPUs of an encoding process; fractions share one.")
    surge: int = Field(
        default=1,
        ge=0,
        description="Extra processes during an exchange of bundles; 0 if the cluster has no resources for one.",
    )
    decoders: int = Field(default=2, ge=1, description="Processes of a model that decode images.")
    batch: int = Field(default=32, ge=1, description="Most images that are encoded together.")
    calls: int = Field(default=96, ge=1, description="Most images in progress in a replica; further calls get 503.")
    patience: float = Field(
        default=30.0, gt=0.0, description="Seconds for which calls of an encoder whose process died are repeated."
    )
    images: int = Field(default=Limits.images, ge=1, description="Most images of a call.")
    image_bytes: int = Field(default=Limits.image_bytes, ge=1, description="Most bytes of an image.")
    image_pixels: int = Field(default=Limits.image_pixels, ge=1, description="Most pixels of an image.")
    call_bytes: int = Field(default=Limits.call_bytes, ge=1, description="Most bytes of a call.")
    seconds: float = Field(
        default=Limits.seconds, gt=0.0, description="Seconds within which the body of a call must arrive."
    )
    store: str = Field(
        default_factory=_default_store, description="URL of the database of enrolments, or `none` without enrolment."
    )
    keep_queries: bool = Field(
        default=False, description="Keep photographs of probably new animals for review by a person."
    )
    keys: Path | None = Field(
        default=None, description="File with a `NAME SCOPE[,SCOPE] KEY` per line; WHALE_RAY_API_KEY counts too."
    )
    hosts: str = Field(
        default="", description="Host names that the service answers to beside IP addresses and localhost, with commas."
    )
    calls_per_minute: int = Field(
        default=3000, ge=0, description="Most calls of a key per minute and replica; 0: no limit."
    )
    access_log: str = Field(default="-", description="`-` (stderr), `none`, or a file.")
    insecure: bool = Field(default=False, description="Allow calls from other machines without a key.")
    page: bool = Field(default=True, description="Serve the web page.")
    _sources: BundleSources = PrivateAttr(default_factory=BundleSources)

    @model_validator(mode="wrap")
    @classmethod
    def _pull(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Pull the bundles at URLs when the settings are read: `Path` would take `hf://a/b` for a folder."""
        if not isinstance(values, dict):
            return handler(values)
        sources = BundleSources()
        local = {name: sources.pull(value) if name in ("bundle", "shadow") else value for name, value in values.items()}
        if isinstance(models := local.get("models"), dict):
            local["models"] = {name: sources.pull(value) for name, value in models.items()}
        made = handler(local)
        made._sources = sources
        return made

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.bundle is None) == (not self.models):
            raise ValueError("either `bundle` or `models` must be given, not both. Name one bundle, or several")
        if self.default is not None and self.default not in self.models:
            known = ", ".join(self.models) or "none"
            raise ValueError(f"`default` must be one of `models` ({known}), but is {self.default!r}. Name one of them")
        for name, least, most in (
            ("replicas", self.replicas, self.max_replicas),
            ("encoder_replicas", self.encoder_replicas, self.max_encoder_replicas),
        ):
            if most is not None and most < least:
                raise ValueError(f"`{name} <= max_{name}` must hold, but got {least} and {most}. Raise max_{name}")
        return self

    @property
    def bundles(self) -> dict[str, Path]:
        """Model name → bundle, the default first."""
        models = self.models if self.bundle is None else {ONLY: self.bundle}
        first = self.default or next(iter(models))
        return {first: models[first], **models}

    @property
    def sources(self) -> BundleSources:
        """URLs of the bundles that were pulled."""
        return self._sources

    def with_sources(self, sources: BundleSources) -> Self:
        """Return a copy whose bundles come from these URLs."""
        copy = self.model_copy()
        copy._sources = sources
        return copy

    @property
    def remote_encoders(self) -> dict[str, Path]:
        """Model name → bundle of the models whose encoder is a deployment: all but a joined default."""
        joined = next(iter(self.bundles)) if self.shape == "joined" else None
        return {name: path for name, path in self.bundles.items() if name != joined}

    @property
    def limits(self) -> Limits:
        """Limits of one call."""
        return Limits(self.image_bytes, self.image_pixels, self.call_bytes, self.images, self.seconds)

    def access_policy(self, keys: ApiKeys) -> AccessPolicy:
        """Return the access rules of the HTTP application: keys, host names and rate limit."""
        hosts = frozenset(host.strip().lower() for host in self.hosts.split(",") if host.strip())
        return AccessPolicy(keys, hosts, self.calls_per_minute, self.access_log)

    @property
    def cores(self) -> int:
        """Cores that all processes reserve at most, those of an exchange of bundles included."""
        remote = len(self.remote_encoders) + (self.shadow is not None)
        ingress = (self.max_replicas or self.replicas) + self.surge
        encoders = (self.max_encoder_replicas or self.encoder_replicas) + self.surge
        return self.threads * (ingress + 2 * remote * encoders)

    @property
    def encoders(self) -> int:
        """Number of encoding processes, each with its share of a GPU, before autoscaling adds any."""
        joined = self.replicas if self.shape == "joined" else 0
        return joined + len(self.remote_encoders) * self.encoder_replicas + (self.shadow is not None)

    def resolved(self) -> Self:
        """Return a copy with absolute paths: replicas have another working directory, and `best` may be replaced."""
        paths = {name: path and real_path(path) for name, path in vars(self).items() if name in _PATHS}
        models = {name: real_path(path) for name, path in self.models.items()}
        log = self.access_log if self.access_log in ("-", "none") else os.path.realpath(self.access_log)
        return self.model_copy(update={**paths, "models": models, "access_log": log})


def read_settings(bundles: Sequence[str], options: Sequence[str]) -> ServeSettings:
    """Return the settings of a command line.

    Args:
        bundles: One bundle, or NAME=BUNDLE for each of several.
        options: KEY=VALUE settings.

    Raises:
        InputError: With every fault.
    """
    named = dict(bundle.partition("=")[::2] for bundle in bundles if "=" in bundle.partition("/")[0])
    if len(bundles) > 1 and len(named) < len(bundles):
        raise InputError("several bundles must each have another name, as small=runs/a/best large=runs/b/best")
    return _validated({"models": named} if named else {"bundle": bundles[0]}, options)


def with_options(settings: ServeSettings, options: Sequence[str]) -> ServeSettings:
    """Return the settings with KEY=VALUE options in place of theirs.

    Args:
        settings: Settings of a running service.
        options: KEY=VALUE settings.

    Raises:
        InputError: With every fault.
    """
    changed = _validated(settings.model_dump(), options)
    return changed.with_sources(settings.sources.merged(changed.sources))


def _validated(settings: dict[str, object], options: Sequence[str]) -> ServeSettings:
    try:
        return ServeSettings.model_validate({**settings, **dict(option.partition("=")[::2] for option in options)})
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, one['loc'])) or 'settings'}: {one['msg']}" for one in error.errors())
        raise InputError(
            f"serve settings must be valid, but {'; '.join(faults)}. See deploy/serve.yaml. See deploy/serve.yaml"
        ) from None
