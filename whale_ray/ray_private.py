"""Adapter of Ray's private APIs: the only module that uses names which Ray may change in any release.

tests/test_ray_private.py checks each of them and fails if Ray is not `RAY_VERSION`. Importing this module does not
import Ray.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

RAY_VERSION = "2.60"
SOCKET_POLLING = {
    "RAY_raylet_client_connect_timeout_milliseconds": "50",
    "RAY_raylet_client_num_connect_attempts": "200",
}
"""Environment of a Ray that starts: its processes look for each other's sockets 20 times per second, for 10 s.

Ray looks once per second; the first look comes too early in two of three starts.
"""


def is_token_auth_enabled() -> bool:
    """Return whether this process uses Ray's token authentication.

    Ray has no public function for this; the dashboard's sign-in depends on it.
    """
    from ray._private.authentication import authentication_utils

    return bool(authentication_utils.is_token_auth_enabled())


def enable_token_auth_if_token_exists() -> bool:
    """Turn on token authentication before `ray.init(address=...)` if this user has a Ray token.

    `ray.init` with an explicit address does not read the token file, although clusters that Ray starts locally
    require the token.

    Returns:
        Whether token authentication is on.
    """
    from ray._private.authentication import authentication_token_setup

    authentication_token_setup.logger.setLevel(logging.ERROR)  # it warns that the token is used
    return bool(authentication_token_setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False))


def check_cluster_versions(address: str) -> None:
    """Check, as `ray.init` does, that a cluster has the Ray and the Python of this process.

    Args:
        address: HOST:PORT, where a cluster answers.

    Raises:
        RuntimeError: If it has others; the text names both.
        PermissionError: If it refuses the token of this process.
    """
    from ray._common.usage.usage_lib import get_cluster_metadata
    from ray._private.utils import check_version_info
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError, RayError

    try:
        found = get_cluster_metadata(GcsClient(address=address))
    except AuthenticationError as error:
        raise PermissionError(str(error)) from error
    except (AttributeError, RayError):  # the cluster has only begun to start, or has ended: `ray.init` waits or says so
        return
    check_version_info(found, "this machine")


def is_ray_initialized() -> bool:
    """Return whether this process is connected to Ray; imports nothing."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def recorded_cluster_address() -> str | None:
    """Return the HOST:PORT that the last `ray start` on this machine left in a file; its cluster may be gone."""
    from ray._private.utils import read_ray_address

    address = read_ray_address()
    return str(address) if address else None


def local_cluster_address() -> str:
    """Return the HOST:PORT of the cluster that `auto` names; it may be gone.

    Raises:
        ConnectionError: If there is none on this machine.
    """
    from ray._private.services import canonicalize_bootstrap_address

    return str(canonicalize_bootstrap_address("auto"))


def torch_config(before: Callable[[], None], **options: Any) -> Any:
    """Return a `ray.train.torch.TorchConfig` with which each worker calls a function before it connects to the others.

    Args:
        before: The function.
        **options: Options of `TorchConfig`.
    """
    from ray.train.torch import TorchConfig
    from ray.train.torch.config import _TorchBackend

    class PreparedBackend(_TorchBackend):  # type: ignore[misc]
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            worker_group.execute(before)
            super().on_start(worker_group, backend_config)

    class PreparedConfig(TorchConfig):  # type: ignore[misc]
        backend_cls = PreparedBackend

    return PreparedConfig(**options)


def proxy_hosts() -> list[str]:
    """Return the hosts on which Ray Serve's proxies listen; empty if Serve has no controller.

    Called inside a replica. `serve.status()` does not include the HTTP options.
    """
    from ray.serve.context import _get_global_client

    client = _get_global_client()
    return [] if client is None else [str(client.http_config.host)]


def set_default_http_host(host: str) -> None:
    """Set the host on which Ray Serve listens if `serve.start` or `serve run` names none.

    In HAProxy mode Ray's default is all interfaces. RAY_SERVE_DEFAULT_HTTP_HOST, if set, has precedence over `host`,
    but Ray itself ignores it in that mode.

    Args:
        host: IP address or host name.
    """
    from ray.serve.config import HTTPOptions

    HTTPOptions.model_fields["host"].default = os.environ.get("RAY_SERVE_DEFAULT_HTTP_HOST") or host
    HTTPOptions.model_rebuild(force=True)


def set_deployment_version(deployment: Any, version: str) -> Any:
    """Return the `serve.Deployment` with a version, so that deploying the same version again restarts no replica.

    The public option `version` was removed; without it Ray draws a random version for each deployment.

    Args:
        deployment: A `ray.serve.Deployment`.
        version: Any string that changes if and only if the replicas must restart.
    """
    return deployment.options(version=version, _internal=True)


def poll_serve_each(seconds: float) -> None:
    """Set the pause between two looks of `serve.run` at an application that starts; Ray looks once per second.

    Args:
        seconds: The pause.
    """
    from ray.serve._private import client

    client.CLIENT_POLLING_INTERVAL_S = seconds


def start_serve(*, host: str, port: int, log_level: str) -> list[Any]:
    """Start Ray Serve's controller, and the proxy on this node without waiting for it as `serve.start` does.

    A deployment's replicas then start beside the proxy; `serve.run` waits for both. A Serve that runs already is used.

    Args:
        host: IP address or host name of the proxy.
        port: Port of the proxy.
        log_level: Level of the logs of Serve's own processes.

    Returns:
        References that `ray.get` returns once the proxy is ready; it raises the proxy's error if it cannot start.
    """
    from ray.serve._private import api
    from ray.serve._private.client import ServeControllerClient
    from ray.serve.config import ControllerOptions
    from ray.serve.context import _get_global_client, _set_global_client

    if _get_global_client(raise_if_no_controller_running=False) is not None:
        return []
    controller, ready = api._create_controller_and_proxy_refs(
        {"host": host, "port": port}, None, {"log_level": log_level}, None, ControllerOptions(), "HeadOnly"
    )
    _set_global_client(ServeControllerClient(controller))
    return list(ready)


@contextlib.contextmanager
def free_agent_port() -> Iterator[None]:
    """Let the agent of a Ray that `ray.init` starts in this block listen on any free port.

    Its own port, 52365, belongs to the first Ray of a machine: the next one tries it for 3.5 s, and starts without.
    """
    from ray._private.parameter import RayParams

    original = RayParams.__init__

    def with_free_port(self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **{"dashboard_agent_listen_port": 0, **options})

    RayParams.__init__ = with_free_port
    try:
        yield
    finally:
        RayParams.__init__ = original


@contextlib.contextmanager
def no_dashboard_process() -> Iterator[None]:
    """Start no process of the dashboard with a Ray that `ray.init(include_dashboard=False)` starts in this block.

    Ray would start one all the same, with nothing but the statistics of use, and wait for it.
    """
    from ray._private import ray_constants, services
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    original = services.start_api_server

    def put_address(*args: Any, gcs_address: str = "", cluster_id_hex: str = "", **options: Any) -> tuple[None, None]:
        client = GcsClient(address=gcs_address or args[3], cluster_id=cluster_id_hex or args[4])
        name = ray_constants.DASHBOARD_ADDRESS.encode()  # the agent asks for it until it has one
        client.internal_kv_put(name, b"127.0.0.1:0", True, ray_constants.KV_NAMESPACE_DASHBOARD)
        return None, None

    services.start_api_server = put_address
    try:
        yield
    finally:
        services.start_api_server = original
