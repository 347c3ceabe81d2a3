"""Host and Origin checks: protection against DNS rebinding and against calls from pages of other sites.

A page of another site can make a browser call this machine, but it cannot choose the headers Host and Origin.
"""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from whale_ray.serving.problem_details import RefusalError
from whale_ray.web.host_origin import SAFE_METHODS, is_known_host, is_same_origin

_HEALTH = "/healthz"  # probes of load balancers send any Host


def check_host(headers: Headers, hosts: Collection[str]) -> None:
    """Check that the Host header is an IP address, localhost or a known name (prevents DNS rebinding).

    Args:
        headers: Headers of the call.
        hosts: Accepted host names in lower case, without port.

    Raises:
        RefusalError: 421 for any other Host.
    """
    host = headers.get("host", "")
    if not is_known_host(host, hosts):
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
    if method in SAFE_METHODS:
        return
    host, origin = headers.get("host", ""), headers.get("origin")
    if not is_same_origin(host, origin=origin, site=headers.get("sec-fetch-site")):
        raise RefusalError(
            403,
            f"only the service's own page may send this call from a browser, but its origin is {str(origin)[:100]!r}. "
            f"Open the page at {host}, or call from a program, which sends no Origin",
        )


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
