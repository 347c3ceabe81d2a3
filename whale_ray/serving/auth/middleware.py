"""ASGI middleware of every application: host and origin checks, and a problem document for each exception."""

from __future__ import annotations

import logging

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from whale_ray.serving.auth.host_origin import check_host, check_origin
from whale_ray.serving.auth.problems import problem_response
from whale_ray.serving.problem_details import RefusalError

_HEALTH = "/healthz"  # probes of load balancers send any Host
_log = logging.getLogger(__name__)


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


class ProblemMiddleware:
    """Answers each exception with a problem document (RFC 9457) and sets X-Content-Type-Options on each answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on the call; log an unexpected exception and answer it with 503."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_started = False

        async def send_with_header(message: Message) -> None:
            nonlocal is_started
            if message["type"] == "http.response.start":
                is_started = True
                message["headers"] = [*message.get("headers", ()), (b"x-content-type-options", b"nosniff")]
            await send(message)

        try:
            await self._app(scope, receive, send_with_header)
        except ClientDisconnect:
            return
        except Exception as error:
            if not isinstance(error, RefusalError):
                _log.exception("%s %s failed (%s)", scope["method"], scope["path"], scope.get("request_id"))
            if not is_started:
                await problem_response(error)(scope, receive, send_with_header)
