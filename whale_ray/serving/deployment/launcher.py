"""The service on Ray Serve: one deployment that takes the call, decodes, encodes and searches in each replica.

The only file that knows ray.serve; the web application itself stands in `web`. Its annotations are no strings
(no `from __future__ import annotations`): Ray reads the type of `build`'s argument to check what was typed.
"""

import io
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import ray
from ray import serve

from whale_ray.errors import BundleError
from whale_ray.ray_private import set_default_http_host
from whale_ray.serving.auth.api_keys import ApiKeys, read_keys
from whale_ray.serving.deployment.ingress import application
from whale_ray.serving.deployment.network import (
    KEY_VARIABLE,
    LOOPBACK,
    _check_port,
    check_exposure,
)
from whale_ray.serving.deployment.page_replica import page_application
from whale_ray.serving.deployment.rollout import check_gpus, page_of, run_application
from whale_ray.serving.deployment.settings import NO_STORE, PageSettings, ServeSettings
from whale_ray.serving.gallery.store import EnrolmentStore

BUNDLE_VARIABLE = "WHALE_RAY_BUNDLE"


def build(settings: ServeSettings) -> serve.Application:
    """The application for `serve run serve_app:build bundle=PATH`.

    Raises: BundleError where the bundle's files are not whole.
    """
    set_default_http_host(LOOPBACK)
    return _application(settings, _keys(settings))


def build_page_beside(settings: PageSettings) -> serve.Application:
    """The web page beside a service that runs as the application `whale_ray`, for `deploy/serve.yaml`."""
    return page_application(settings, keys=_keys(settings))


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


def _keys(settings: PageSettings) -> ApiKeys:
    return read_keys(settings.keys, os.environ.get(KEY_VARIABLE))


def _application(settings: ServeSettings, keys: ApiKeys) -> serve.Application:
    deployments = application(settings, keys=keys)
    if settings.store != NO_STORE:
        EnrolmentStore(settings.store).close()  # what is wrong with it is said before anything starts
    return deployments


def serve_bundle(
    bundle: Path, *, host: str = LOOPBACK, port: int = 8000, insecure: bool = False, **settings: Any
) -> None:
    """As `serve_models` for one bundle. settings: the others of ServeSettings."""
    serve_models(ServeSettings(bundle=bundle, **settings), host=host, port=port, insecure=insecure)


def serve_models(settings: ServeSettings, *, host: str = LOOPBACK, port: int = 8000, insecure: bool = False) -> None:
    """Serves until Ctrl-C or SIGTERM, then takes everything down that it started.

    insecure: others may call it without a key.
    Raises: BundleError where a bundle cannot be used; InputError where it must not or cannot listen there.
    """
    settings = settings.model_copy(update={"insecure": insecure or settings.insecure})
    keys = _keys(settings)
    check_exposure([host], keyless=not keys, insecure=settings.insecure)
    _check_port(host, port)
    deployments = _application(settings, keys)
    names = " and ".join(map(str, settings.bundles.values()))
    print(f"{names}: loading, {settings.replicas} replica{'s' * (settings.replicas != 1)} …", flush=True)
    with suppress(KeyboardInterrupt), _running_ray(settings), _signals_interrupt():
        check_gpus(settings)
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        http = {"host": host, "port": port}
        serve.start(proxy_location="HeadOnly", http_options=http, logging_config={"log_level": "WARNING"})
        try:
            run_application(deployments, page_of(settings, keys))
            print(_welcome(names, host, port, ray_address=ray.get_runtime_context().gcs_address), flush=True)
            threading.Event().wait()
        finally:
            print("stopping: requests that are under way are answered", flush=True)
            with redirect_stdout(io.StringIO()):  # Ray tells of its own controller's end as of a failure
                serve.shutdown()


@contextmanager
def _running_ray(settings: ServeSettings) -> Iterator[None]:
    """Holds a Ray of our own, with as many cores as are wanted, unless there is one in this process already."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # On a busy machine Ray's 5 and 10 s are too few: it then ends a proxy that works, and with it whom that answers.
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
    os.environ.setdefault("RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S", "60")
    # Whatever blocks runs on threads of ours: a loop of Ray's beside our own costs each call 0.4 ms.
    os.environ.setdefault("RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD", "0")
    ray.init(
        address="local", num_cpus=settings.cores, namespace="serve", include_dashboard=False, logging_level="ERROR"
    )
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


def _welcome(names: str, host: str, port: int, *, ray_address: str) -> str:
    name = LOOPBACK if host in ("0.0.0.0", "::", "localhost") else host
    address = f"http://{f'[{name}]' if ':' in name else name}:{port}"
    key = f' -H "Authorization: Bearer ${KEY_VARIABLE}"' if os.environ.get(KEY_VARIABLE) else ""
    return "\n".join(
        [
            f"{names} answers until Ctrl-C:",
            f"  page         {address}/",
            f"  for programs {address}/docs",
            f"  exchange     whale-ray deploy BUNDLE --address {ray_address}",
            f"  curl{key} -F image=@fluke.jpg {address}/v1/identify",
        ]
    )
