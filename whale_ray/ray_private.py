"""Adapter of Ray's private APIs: the only module that uses names which Ray may change in any release.

tests/test_ray_private.py checks each of them and fails if Ray is not `RAY_VERSION`. Importing this module does not
import Ray.
"""

from __future__ import annotations

import os
import sys
from typing import Any

RAY_VERSION = "2.60"


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

    return bool(authentication_token_setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False))


def is_ray_initialized() -> bool:
    """Return whether this process is connected to Ray; imports nothing."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def has_autoscaler() -> bool:
    """Return whether the connected cluster can add nodes, by the node groups that its autoscaler has registered."""
    from ray._private.state import state

    return state.get_max_resources_from_cluster_config() is not None


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
