"""Access log: request IDs, request counters and one JSON line per call.

A line never holds a body, a query, a header or a key.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler

from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from whale_ray.errors import InputError
from whale_ray.serving.metrics import count, observe

_VALID_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_METHODS = {"GET", "HEAD", "POST", "DELETE", "OPTIONS"}
_NO_ROUTE = "nowhere"


def open_access_log(destination: str) -> logging.Logger | None:
    """Return a logger of the access log; a file is opened again after log rotation.

    Args:
        destination: `-` (stderr), `none` or a file, to which lines are appended.

    Raises:
        InputError: If the file cannot be opened.
    """
    if destination == "none":
        return None
    logger = logging.Logger("whale_ray.access", logging.INFO)
    try:
        logger.addHandler(
            logging.StreamHandler(sys.stderr)
            if destination == "-"
            else WatchedFileHandler(destination, encoding="utf-8")
        )
    except OSError as error:
        raise InputError(f"access_log must be `-`, `none` or a writable file, but: {error}. Name another") from None
    return logger


def check_access_log(destination: str) -> None:
    """Open the access log once, so that one that cannot be written is reported before anything starts.

    Raises:
        InputError: If the file cannot be opened.
    """
    logger = open_access_log(destination)
    for handler in logger.handlers if logger else ():
        handler.close()


class AccessLogMiddleware:
    """ASGI middleware: gives each call a request ID, counts it and writes its line of the access log."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        logger: logging.Logger | None = None,
        routes: Sequence[BaseRoute] = (),
        stage: str = "call",
        echoed: bool = False,
    ) -> None:
        """Wrap an application.

        Args:
            app: The application.
            logger: Gets the lines; None writes none.
            routes: Routes of the application. A call that is refused before routing is logged under the route that
                matches it, or as `nowhere`.
            stage: Label of the call's duration in `whale_ray_stage_seconds`.
            echoed: A server before this one copies the caller's X-Request-Id into the answer.
        """
        self._app, self._logger, self._routes, self._stage, self._echoed = app, logger, routes, stage, echoed
        self._fixed_paths = {path for path in map(_route_path, routes) if "{" not in path}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on the call; keep its X-Request-Id if that is valid, and generate one otherwise."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        is_valid = bool(_VALID_ID.fullmatch(given))
        scope["request_id"] = given if is_valid else uuid.uuid4().hex
        headers = [] if is_valid and self._echoed else [(b"x-request-id", scope["request_id"].encode())]
        started, status = time.perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *headers]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            self._record(scope, status, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = self._find_route(scope)
        # An unknown method must not create a new label.
        method = scope["method"] if scope["method"] in _METHODS else "other"
        count("whale_ray_requests", method=method, route=route, status=str(status))
        observe("whale_ray_stage_seconds", seconds, stage=self._stage)
        if status >= 400:
            count("whale_ray_refusals", status=str(status))
        if self._logger:
            line = {
                "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "request_id": scope["request_id"],
                "method": scope["method"],
                "path": scope["path"],
                "route": route,
                "status": status or None,
                "seconds": round(seconds, 4),
                "key": scope.get("key_name"),
                "client": (scope.get("client") or (None,))[0],
            }
            self._logger.info("%s", json.dumps(line))

    def _find_route(self, scope: Scope) -> str:
        """Return the path pattern of the call: there are few enough of them for a metric label."""
        if route := scope.get("route"):
            return str(route.path)
        path = str(scope["path"])
        return path if path in self._fixed_paths else _match_route(self._routes, scope)


def _route_path(route: BaseRoute) -> str:
    return str(route.path) if isinstance(route, Route | Mount) else _NO_ROUTE


def _match_route(routes: Sequence[BaseRoute], scope: Scope) -> str:
    """Return the pattern of the route that matches this call, or would match with another method; else `nowhere`."""
    matches = [(route.matches(scope)[0], _route_path(route)) for route in routes]
    for wanted in (Match.FULL, Match.PARTIAL):
        for match, pattern in matches:
            if match is wanted:
                return pattern
    return _NO_ROUTE
