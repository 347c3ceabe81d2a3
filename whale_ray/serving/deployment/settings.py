"""What a service is told when it is deployed: which bundles, in which shape, with how many processes and limits.

Knows names, numbers and what they forbid each other; knows no Ray. Its annotations are no strings (no
`from __future__ import annotations`): Ray reads them to check what was typed.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from whale_ray.errors import InputError
from whale_ray.serving.auth.api_keys import ApiKeys
from whale_ray.serving.auth.scopes import AccessPolicy
from whale_ray.serving.http.uploads import Limits

ONLY = "default"
STORE_VARIABLE = "WHALE_RAY_STORE"
NO_STORE = "none"
_PATHS = ("bundle", "shadow", "keys")
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


def store_from_environment() -> str:
    """The URL that WHALE_RAY_STORE names; else a file of SQLite in the folder where the service is started."""
    return os.environ.get(STORE_VARIABLE) or f"sqlite:///{Path.cwd() / 'enrolled.db'}"


class PageSettings(BaseModel):
    """What `deploy/serve.yaml` tells the web page: who may come in, as for the service that it belongs to.

    All of them are those of ServeSettings.
    """

    model_config = ConfigDict(extra="forbid")
    image_bytes: Count = Limits.image_bytes
    image_pixels: Count = Limits.image_pixels
    call_bytes: Count = Limits.call_bytes
    images: Count = Limits.images
    seconds: float = Field(default=Limits.seconds, gt=0.0)
    keys: Path | None = None
    hosts: str = ""
    calls_per_minute: int = Field(default=3000, ge=0)
    insecure: bool = False

    @property
    def limits(self) -> Limits:
        """How much one call may bring."""
        return Limits(self.image_bytes, self.image_pixels, self.call_bytes, self.images, self.seconds)

    def access_policy(self, keys: ApiKeys) -> AccessPolicy:
        """Who may come in."""
        hosts = frozenset(host.strip().lower() for host in self.hosts.split(",") if host.strip())
        return AccessPolicy(keys, hosts, self.calls_per_minute)


class ServeSettings(PageSettings):
    """What `serve run serve_app:build KEY=VALUE …` and `deploy/serve.yaml` take.

    bundle, or models (name → bundle) with default, the name that answers where a call chooses none (the first).
    shape: `joined` encodes the default model in the process that takes the call; `split` in a deployment of its own.
    The other models always have a deployment of their own. shadow: a bundle that answers silently beside the default.
    replicas: of what takes the calls; encoder_replicas: of each other deployment; with a `max_`, as many as are busy,
    busy being the calls under way in one; upscale_delay, downscale_delay: seconds for which more, or fewer, must have
    been wanted. threads: of a process that encodes, which are also the cores that it
    reserves; gpus: its GPUs, fractions share one. surge: more replicas while a bundle is exchanged; 0 where the
    cluster has no room for one. calls: photographs looked at at once by a replica, other calls get 503. batch:
    photographs encoded together at most; decoders: photographs of a model decoded at once. patience: seconds for which
    a split encoder that died is asked again. store: the URL of the database of enrolments, or `none`. keep_queries:
    photographs of animals that seem new are kept there for a person. keys: a file with keys. hosts: names, with
    commas, that the service answers to beside addresses and localhost. calls_per_minute: of each key, in each replica.
    access_log: `-` (stderr), `none` or a file. insecure: others than this machine may call it without a key. page:
    whether the web page is shown, by a process of its own.
    """

    bundle: Path | None = None
    models: dict[Name, Path] = Field(default_factory=dict)
    default: str | None = None
    shape: Literal["joined", "split"] = "joined"
    shadow: Path | None = None
    replicas: Count = 1
    max_replicas: Count | None = None
    encoder_replicas: Count = 1
    max_encoder_replicas: Count | None = None
    busy: float = Field(default=16.0, gt=0.0)
    upscale_delay: float = Field(default=30.0, ge=0.0)
    downscale_delay: float = Field(default=600.0, ge=0.0)
    threads: Count = 1
    gpus: float = Field(default=0.0, ge=0.0)
    surge: int = Field(default=1, ge=0)
    decoders: Count = 2
    batch: Count = 32
    calls: Count = 96
    patience: float = Field(default=30.0, gt=0.0)
    store: str = Field(default_factory=store_from_environment)
    keep_queries: bool = False
    access_log: str = "-"
    page: bool = True

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
        """Name → bundle, the default first."""
        models = self.models if self.bundle is None else {ONLY: self.bundle}
        first = self.default or next(iter(models))
        return {first: models[first], **models}

    @property
    def apart(self) -> dict[str, Path]:
        """The bundles whose encoders have a deployment of their own: all but a default that is joined."""
        joined = next(iter(self.bundles)) if self.shape == "joined" else None
        return {name: path for name, path in self.bundles.items() if name != joined}

    def access_policy(self, keys: ApiKeys) -> AccessPolicy:
        """Who may come in."""
        return replace(super().access_policy(keys), access_log=self.access_log)

    @property
    def cores(self) -> int:
        """Cores that all processes reserve together when all of them run, those of an exchange included."""
        apart = len(self.apart) + (self.shadow is not None)
        taking = (self.max_replicas or self.replicas) + self.surge
        encoding = (self.max_encoder_replicas or self.encoder_replicas) + self.surge
        return self.threads * (taking + 2 * apart * encoding)

    @property
    def encoders(self) -> int:
        """How many processes encode, each with its share of a GPU, where as few run as may."""
        joined = self.replicas if self.shape == "joined" else 0
        return joined + len(self.apart) * self.encoder_replicas + (self.shadow is not None)

    def resolved(self) -> Self:
        """The same with absolute paths: a replica has another working directory, and `best` may be swapped."""
        paths = {name: path and path.resolve() for name, path in vars(self).items() if name in _PATHS}
        models = {name: path.resolve() for name, path in self.models.items()}
        log = self.access_log if self.access_log in ("-", "none") else str(Path(self.access_log).resolve())
        return self.model_copy(update={**paths, "models": models, "access_log": log})


def read_settings(bundles: Sequence[str], options: Sequence[str]) -> ServeSettings:
    """The settings of a command line: a bundle or several NAME=BUNDLE, and KEY=VALUE options.

    Raises: InputError with everything that is wrong.
    """
    named = dict(bundle.partition("=")[::2] for bundle in bundles if "=" in bundle.partition("/")[0])
    if len(bundles) > 1 and len(named) < len(bundles):
        raise InputError("several bundles must each have another name, as small=runs/a/best large=runs/b/best")
    return _validated({"models": named} if named else {"bundle": bundles[0]}, options)


def changed(settings: ServeSettings, options: Sequence[str]) -> ServeSettings:
    """The settings with KEY=VALUE options laid over them. Raises: InputError with everything that is wrong."""
    return _validated(settings.model_dump(), options)


def _validated(settings: dict[str, object], options: Sequence[str]) -> ServeSettings:
    try:
        return ServeSettings.model_validate({**settings, **dict(option.partition("=")[::2] for option in options)})
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, one['loc'])) or 'settings'}: {one['msg']}" for one in error.errors())
        raise InputError(f"a service's settings must be those of deploy/serve.yaml, but {'; '.join(faults)}") from None
