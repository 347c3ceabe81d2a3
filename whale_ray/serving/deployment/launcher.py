"""Start of a service: builders for `serve run` and deploy/serve.yaml, and `whale-ray serve`.

The annotations are no strings (no `from __future__ import annotations`): Ray reads the type of `build`'s argument.
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

from whale_ray.device import without_default_threads
from whale_ray.errors import BundleError, InputError
from whale_ray.ray_address import check_ray_address, requested_address
from whale_ray.ray_private import (
    SOCKET_POLLING,
    free_agent_port,
    no_dashboard_process,
    poll_serve_each,
    set_default_http_host,
    start_serve,
)
from whale_ray.ray_temp_folder import shorten_ray_folder
from whale_ray.serving.auth.api_keys import ApiKeys, read_keys
from whale_ray.serving.deployment.application import build_application
from whale_ray.serving.deployment.host_and_port_checks import KEY_VARIABLE, LOOPBACK, check_exposure, check_port_is_free
from whale_ray.serving.deployment.rollout import check_gpus, run_application
from whale_ray.serving.deployment.settings import NO_STORE, ServeSettings
from whale_ray.serving.gallery.enrolment_store import EnrolmentStore
from whale_ray.serving.http.access_log import check_access_log

BUNDLE_VARIABLE = "WHALE_RAY_BUNDLE"
_POLL_SECONDS, _PROXY_SECONDS = 0.1, 60.0


def build(settings: ServeSettings) -> serve.Application:
    """Return the application for `serve run serve_app:build bundle=PATH`.

    Raises:
        BundleError: If a file of a bundle is missing or damaged.
    """
    set_default_http_host(LOOPBACK)
    return _application(settings, _keys(settings))


def build_from_environment() -> serve.Application:
    """Return the application of the bundle in WHALE_RAY_BUNDLE, for `serve run serve_app:app`.

    Raises:
        BundleError: If the variable is not set or its bundle is damaged.
    """
    path = os.environ.get(BUNDLE_VARIABLE)
    if not path:
        raise BundleError(
            f"{BUNDLE_VARIABLE} must name a bundle, but is not set. Type `{BUNDLE_VARIABLE}=runs/quickstart/best "
            "serve run serve_app:app`, or `serve run serve_app:build bundle=runs/quickstart/best`"
        )
    return build(ServeSettings.model_validate({"bundle": path}))


def refuse_page_application(settings: dict[str, Any]) -> serve.Application:
    """Raise InputError: files for version 0.1 deploy the page as a separate application.

    Raises:
        InputError: Always.
    """
    raise InputError(
        "the web page must be part of the application `whale_ray`, but this file also has the application "
        "`serve_app:page` of version 0.1. Remove that application from the file, as in deploy/serve.yaml"
    )


def _keys(settings: ServeSettings) -> ApiKeys:
    return read_keys(settings.keys, os.environ.get(KEY_VARIABLE))


def _application(settings: ServeSettings, keys: ApiKeys) -> serve.Application:
    check_access_log(settings.access_log)
    application = build_application(settings, keys=keys)
    if settings.store != NO_STORE:
        EnrolmentStore(settings.store).close()  # a database that cannot be opened is reported before anything starts
    return application


def serve_bundle(
    bundle: Path, *, host: str = LOOPBACK, port: int = 8000, insecure: bool = False, **settings: Any
) -> None:
    """Serve one bundle as `serve_models` does.

    Args:
        bundle: Folder of the bundle.
        host: Address to listen on.
        port: Port to listen on.
        insecure: Allow calls from other machines without a key.
        **settings: Further fields of ServeSettings.

    Raises:
        BundleError: If the bundle cannot be used.
        InputError: If the service must not or cannot listen there.
    """
    serve_models(ServeSettings(bundle=bundle, **settings), host=host, port=port, insecure=insecure)


def serve_models(settings: ServeSettings, *, host: str = LOOPBACK, port: int = 8000, insecure: bool = False) -> None:
    """Serve until Ctrl-C or SIGTERM, then end every process that this call started.

    Args:
        settings: Bundles, processes and limits.
        host: Address to listen on.
        port: Port to listen on.
        insecure: Allow calls from other machines without a key.

    Raises:
        BundleError: If a bundle cannot be used.
        InputError: If the service must not or cannot listen there, or RAY_ADDRESS names a cluster that is gone.
    """
    settings = settings.model_copy(update={"insecure": insecure or settings.insecure})
    keys = _keys(settings)
    if requested_address(None):
        check_ray_address(None)  # Ray's tools, which the service's processes use, follow RAY_ADDRESS
    check_exposure([host], keyless=not keys, insecure=settings.insecure)
    check_port_is_free(host, port)
    application = _application(settings, keys)
    names = " and ".join(map(str, settings.bundles.values()))
    print(f"{names}: loading, {settings.replicas} replica{'s' * (settings.replicas != 1)} …", flush=True)
    with suppress(KeyboardInterrupt), _running_ray(settings), _signals_interrupt():
        check_gpus(settings)
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        poll_serve_each(_POLL_SECONDS)
        proxies = start_serve(host=host, port=port, log_level="WARNING")
        try:
            _run_behind(proxies, application)
            print(_welcome(names, host, port, ray_address=ray.get_runtime_context().gcs_address), flush=True)
            threading.Event().wait()
        finally:
            print("stopping: calls in progress are completed", flush=True)
            with redirect_stdout(io.StringIO()):  # Ray reports the end of its own controller as a failure
                serve.shutdown()


def _run_behind(proxies: list[ray.ObjectRef], application: serve.Application) -> None:
    """Run the application; return once it answers behind the proxies, which start beside it."""
    try:
        run_application(application)
    except TimeoutError:
        ray.get(proxies, timeout=_PROXY_SECONDS)  # raises the reason for which a proxy does not start
        raise
    ray.get(proxies, timeout=_PROXY_SECONDS)


@contextmanager
def _running_ray(settings: ServeSettings) -> Iterator[None]:
    """Start a local Ray with as many cores as the settings need, unless this process has one already."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.update({name: os.environ.get(name, value) for name, value in SOCKET_POLLING.items()})
    # On a busy machine Ray's limits of 5 and 10 s end a working proxy, and with it the calls under way.
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
    os.environ.setdefault("RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S", "60")
    # Blocking work runs in our own threads; Ray's extra event loop costs 0.4 ms per call.
    os.environ.setdefault("RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD", "0")
    if folder := shorten_ray_folder():
        print(f"Ray's files are in {folder}: the temporary folder is too long for its sockets", flush=True)
    with without_default_threads(), free_agent_port(), no_dashboard_process():
        ray.init(
            address="local", num_cpus=settings.cores, namespace="serve", include_dashboard=False, logging_level="ERROR"
        )
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Make SIGTERM behave as Ctrl-C; `ray.init` installs another handler."""
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
            f"  API          {address}/docs",
            f"  exchange     whale-ray deploy BUNDLE --address {ray_address}",
            f"  curl{key} -F image=@fluke.jpg {address}/v1/identify",
        ]
    )
