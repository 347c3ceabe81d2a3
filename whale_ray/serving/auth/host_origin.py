"""Host and Origin checks: protection against DNS rebinding and against calls from pages of other sites.

A page of another site can make a browser call this machine, but it cannot choose the headers Host and Origin.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from whale_ray.serving.problem_details import RefusalError

_HEALTH = "/healthz"  # probes of load balancers send any Host
_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}


def check_host(headers: Headers, hosts: Collection[str]) -> None:
    """Check that the Host header is an IP address, localhost or a known name (prevents DNS rebinding).

    Args:
        headers: Headers of the call.
        hosts: Accepted host names in lower case, without port.

    Raises:
        RefusalError: 421 for any other Host.
    """
    host = headers.get("host", "")
    name = _host_name(host)
    if not (name == "localhost" or name in hosts or _is_address(name)):
        raise RefusalError(
            421,
            f"the Host must be an IP address, localhost or a configured name, but is {host[:100]!r}. "
            "Call the service by its address, or start it with hosts=NAME",
        )


def check_origin(method: str, headers: Headers) -> None:
    """Check that a call that may change something comes from a program or from a page of the same origin.

    Args:
        method: HTTP method; GET, HEAD and OPTIONS are always accepted.
        headers: Headers of the call; programs send neither Origin nor Sec-Fetch-Site.

    Raises:
        RefusalError: 403 if a page of another site sends the call.
    """
    if method in _SAFE_METHODS:
        return
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
    host = headers.get("host", "")
    if origin is None:
        is_same_origin = site in ("same-origin", "none")
    else:
        is_same_origin = _without_default_port(origin.partition("://")[2]) == _without_default_port(host)
    if not is_same_origin:
        raise RefusalError(
            403,
            f"only the service's own page may send this call from a browser, but its origin is {str(origin)[:100]!r}. "
            f"Open the page at {host}, or call from a program, which sends no Origin",
        )


def _host_name(host: str) -> str:
    """Return the lower-case name of `name:port`; an IPv6 address without its brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _without_default_port(host: str) -> str:
    return host.lower().removesuffix(":80").removesuffix(":443")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class HostOriginMiddleware:
    """Refuses calls with a foreign Host, and changes that a page of another site sends."""

    def __init__(self, app: ASGIApp, *, hosts: frozenset[str]) -> None:
        """Wrap an application.

        Args:
            app: The application that gets the accepted calls.
            hosts: Lower-case host names that are accepted beside IP addresses and localhost.
        """
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a call that is accepted; raise RefusalError 403 or 421 otherwise."""
        if scope["type"] == "http" and scope["path"] != _HEALTH:
            headers = Headers(scope=scope)
            check_host(headers, self._hosts)
            check_origin(scope["method"], headers)
        await self._app(scope, receive, send)
