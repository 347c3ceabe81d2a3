"""The service on Ray Serve: one deployment that takes the call, decodes, encodes and searches in each replica.

The only file that knows ray.serve; the web application itself stands in `web`. Its annotations are no strings
(no `from __future__ import annotations`): Ray reads the type of `build`'s argument to check what was typed.
"""

import io
import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import ray
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.config import HTTPOptions

from whale_ray.bundle import read_bundle
from whale_ray.errors import BundleError, InputError, StoreError
from whale_ray.identify import Bundle
from whale_ray.serving.catalogue import Catalogue
from whale_ray.serving.decoding import Decoders
from whale_ray.serving.enrolment import EnrolmentStore
from whale_ray.serving.exposure import check_exposure, hosts_of_proxies
from whale_ray.serving.guard import Entrance
from whale_ray.serving.keys import Keys, read_keys
from whale_ray.serving.metrics import RayMetrics
from whale_ray.serving.recogniser import Encoder, Recogniser
from whale_ray.serving.review import KeptQueries
from whale_ray.serving.service import Service
from whale_ray.serving.telemetry import tell
from whale_ray.serving.uploads import Limits
from whale_ray.serving.web import build_web

BUNDLE_VARIABLE = "WHALE_RAY_BUNDLE"
KEY_VARIABLE = "WHALE_RAY_API_KEY"
STORE_VARIABLE = "WHALE_RAY_STORE"
NO_STORE = "none"
LOOPBACK = "127.0.0.1"
NAME = "whale_ray"
Count = Annotated[int, Field(ge=1)]


def store_from_environment() -> str:
    """The URL that WHALE_RAY_STORE names; else a file of SQLite in the folder where the service is started."""
    return os.environ.get(STORE_VARIABLE) or f"sqlite:///{Path.cwd() / 'enrolled.db'}"


class ServeSettings(BaseModel):
    """What `serve run serve_app:build KEY=VALUE …` takes.

    threads: of torch, a replica, which are also the cores that it reserves. calls: answered at once by a replica,
    the others get 503. max_ongoing_requests: how many of them Ray hands to a replica at once. store: the URL of the
    database of enrolments, or `none`. keep_queries: photographs of animals that seem new are kept there for a person.
    keys: a file with keys. hosts: names, with commas, that the service answers to beside addresses and localhost.
    calls_per_minute: of each key, in each replica. access_log: `-` (stderr), `none` or a file. insecure: others than
    this machine may call it without a key.
    """

    model_config = ConfigDict(extra="forbid")
    bundle: Path
    replicas: Count = 1
    threads: Count = 1
    gpus: float = Field(default=0.0, ge=0.0)
    decoders: Count = 2
    batch: Count = 32
    calls: Count = 96
    max_ongoing_requests: Count = 128
    image_bytes: Count = Limits.image_bytes
    image_pixels: Count = Limits.image_pixels
    call_bytes: Count = Limits.call_bytes
    images: Count = Limits.images
    seconds: float = Field(default=Limits.seconds, gt=0.0)
    store: str = Field(default_factory=store_from_environment)
    keep_queries: bool = False
    keys: Path | None = None
    hosts: str = ""
    calls_per_minute: int = Field(default=3000, ge=0)
    access_log: str = "-"
    insecure: bool = False

    @property
    def limits(self) -> Limits:
        """How much one call may bring."""
        return Limits(self.image_bytes, self.image_pixels, self.call_bytes, self.images, self.seconds)

    def entrance(self, keys: Keys) -> Entrance:
        """Who may come in."""
        hosts = frozenset(host.strip().lower() for host in self.hosts.split(",") if host.strip())
        return Entrance(keys, hosts, self.calls_per_minute, self.access_log)


class Replica:
    """One process that answers calls; its bundle is loaded, and checked by its golden images, when it starts."""

    def __init__(self, settings: ServeSettings, keys: Keys) -> None:
        self._settings = settings
        # The variable on the replica's own machine counts too: a cluster's key must not be lost on the way.
        self._keys = keys or read_keys(None, os.environ.get(KEY_VARIABLE))
        check_exposure(hosts_of_proxies(), keyless=not self._keys, insecure=settings.insecure)
        self._bundle = Bundle.load(settings.bundle, device="cuda" if settings.gpus else "cpu")

    def __serve_build_asgi_app__(self) -> FastAPI:
        settings = self._settings
        bundle, limits = self._bundle, settings.limits
        store = _store(settings.store)
        recogniser = Recogniser(
            Catalogue(bundle, store),
            Encoder(bundle, threads=settings.threads, batch=settings.batch),
            Decoders(bundle.geometry, count=settings.decoders, bytes_=limits.image_bytes, pixels=limits.image_pixels),
            batch=settings.batch,
        )
        kept = KeptQueries(store) if store and settings.keep_queries else None
        service = Service(bundle, recogniser, limits=limits, most_calls=settings.calls, kept=kept)
        tell(RayMetrics())
        return build_web(service, settings.entrance(self._keys))


def _store(url: str) -> EnrolmentStore | None:
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


def build(settings: ServeSettings) -> serve.Application:
    """The application for `serve run serve_app:build bundle=PATH`.

    Raises: BundleError where the bundle's files are not whole.
    """
    _listen_on_loopback_unless_told()
    return _application(settings)


def build_from_environment() -> serve.Application:
    """The application of the bundle that WHALE_RAY_BUNDLE names, for `serve run serve_app:app`.

    Raises: BundleError where it names none.
    """
    path = os.environ.get(BUNDLE_VARIABLE)
    if not path:
        raise BundleError(
            f"{BUNDLE_VARIABLE} must name a bundle, but is not set. Type `{BUNDLE_VARIABLE}=runs/quickstart/best "
            "serve run serve_app:app`, or `serve run serve_app:build bundle=runs/quickstart/best`"
        )
    return build(ServeSettings(bundle=Path(path)))


def _application(settings: ServeSettings) -> serve.Application:
    # A replica has another working directory, and `best` may be swapped while it runs.
    log = settings.access_log if settings.access_log in ("-", "none") else str(Path(settings.access_log).resolve())
    settings = settings.model_copy(update={"bundle": settings.bundle.resolve(), "access_log": log})
    read_bundle(settings.bundle)
    if settings.store != NO_STORE:
        EnrolmentStore(settings.store).close()  # what is wrong with it is said before anything starts
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name=NAME,
        num_replicas=settings.replicas,
        max_ongoing_requests=settings.max_ongoing_requests,
        ray_actor_options={"num_cpus": settings.threads, "num_gpus": settings.gpus},
        max_constructor_retry_count=1,
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )
    return deployment.bind(settings, read_keys(settings.keys, os.environ.get(KEY_VARIABLE)))


def _listen_on_loopback_unless_told() -> None:
    """Makes loopback Serve's default in HAProxy's mode too, where Ray's own default is every interface."""
    HTTPOptions.model_fields["host"].default = os.environ.get("RAY_SERVE_DEFAULT_HTTP_HOST") or LOOPBACK
    HTTPOptions.model_rebuild(force=True)


def serve_bundle(
    bundle: Path, *, host: str = LOOPBACK, port: int = 8000, insecure: bool = False, **settings: Any
) -> None:
    """Serves the bundle until Ctrl-C or SIGTERM, then takes everything down that it started.

    settings: those of ServeSettings. insecure: others may call it without a key.
    Raises: BundleError where the bundle cannot be used; InputError where it must not or cannot listen there.
    """
    chosen = ServeSettings(bundle=bundle, insecure=insecure, **settings)
    keyless = not read_keys(chosen.keys, os.environ.get(KEY_VARIABLE))
    check_exposure([host], keyless=keyless, insecure=insecure)
    _check_port(host, port)
    application = _application(chosen)
    print(f"{bundle} is loaded into {chosen.replicas} replica{'s' * (chosen.replicas != 1)} …", flush=True)
    with suppress(KeyboardInterrupt), _running_ray(chosen), _signals_interrupt():
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        http = {"host": host, "port": port}
        serve.start(proxy_location="HeadOnly", http_options=http, logging_config={"log_level": "WARNING"})
        try:
            _run(application)
            print(_welcome(bundle, host, port), flush=True)
            threading.Event().wait()
        finally:
            print("stopping: requests that are under way are answered", flush=True)
            with redirect_stdout(io.StringIO()):  # Ray tells of its own controller's end as of a failure
                serve.shutdown()


def _check_port(host: str, port: int) -> None:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise InputError(
            f"{host}:{port} must be free to listen on, but: {error.strerror}. Choose another --port"
        ) from error


@contextmanager
def _running_ray(settings: ServeSettings) -> Iterator[None]:
    """Holds a Ray of our own, with as many cores as are wanted, unless there is one in this process already."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    cores = settings.replicas * settings.threads
    ray.init(address="local", num_cpus=cores, namespace="serve", include_dashboard=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Makes SIGTERM behave as Ctrl-C; Ray, when it starts, takes it for itself."""
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(application: serve.Application) -> None:
    try:
        serve.run(application, name=NAME, route_prefix="/")
    except RuntimeError as error:
        message = serve.status().applications[NAME].deployments[NAME].message
        reasons = re.findall(r"(?:Bundle|Store|Input)Error: (.+)", message)
        if not reasons:
            raise
        raise BundleError(reasons[-1]) from error


def _welcome(bundle: Path, host: str, port: int) -> str:
    name = LOOPBACK if host in ("0.0.0.0", "::", "localhost") else host
    address = f"http://{f'[{name}]' if ':' in name else name}:{port}"
    key = f' -H "Authorization: Bearer ${KEY_VARIABLE}"' if os.environ.get(KEY_VARIABLE) else ""
    return "\n".join(
        [
            f"{bundle} answers until Ctrl-C:",
            f"  page         {address}/",
            f"  for programs {address}/docs",
            f"  curl{key} -F image=@fluke.jpg {address}/v1/identify",
        ]
    )
