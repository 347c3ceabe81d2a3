"""What stands around everything: an id for each call, in its answer and in the log; and a line of the log for each.

Knows ASGI; knows no photograph and no bundle. A line never holds a body, a query, a header or a key.
"""

from __future__ import annotations

import json
import re
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from whale_ray.serving.metrics import count, observe

_SANE = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
Write = Callable[[str], object]


def open_log(where: str) -> Write | None:
    """Writes lines to stderr (`-`), nowhere (`none`), or to the end of the file of this name."""
    if where in ("none", "-"):
        return sys.stderr.write if where == "-" else None

    def write(line: str) -> None:
        with open(where, "a", encoding="utf-8") as stream:  # each time anew: it may be moved away when it is long
            stream.write(line)

    return write


class Access:
    """ASGI middleware: gives each call its id (the caller's X-Request-Id where that is sane), counts it, logs it.

    routes: of the application; a call that is refused before it is routed is named by the one that it would have come
    to, others `nowhere`. stage: what the figures call the time that a call takes. echoed: a server before this one puts
    the caller's id, as it came, into the answer.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        write: Write | None = None,
        routes: Sequence[BaseRoute] = (),
        stage: str = "call",
        echoed: bool = False,
    ) -> None:
        self._app, self._write, self._routes, self._stage, self._echoed = app, write, routes, stage, echoed
        self._fixed = {path for path in map(_path, routes) if "{" not in path}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the call on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        kept = bool(_SANE.fullmatch(given))
        scope["request_id"] = given if kept else uuid.uuid4().hex
        own = [] if kept and self._echoed else [(b"x-request-id", scope["request_id"].encode())]
        began, status = time.perf_counter(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *own]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            self._tell(scope, status, time.perf_counter() - began)

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        route = self._route_of(scope)
        count("whale_ray_requests", method=_method(scope), route=route, status=str(status))
        observe("whale_ray_stage_seconds", seconds, stage=self._stage)
        if status >= 400:
            count("whale_ray_refusals", status=str(status))
        if self._write:
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
            self._write(json.dumps(line) + "\n")

    def _route_of(self, scope: Scope) -> str:
        """The pattern of the call's address: few enough to be counted by."""
        if route := scope.get("route"):
            return str(route.path)
        path = str(scope["path"])
        # refused before it was routed: many are, where there is no room
        return path if path in self._fixed else _pattern(self._routes, scope)


def _path(route: BaseRoute) -> str:
    return str(route.path) if isinstance(route, Route | Mount) else "nowhere"


def _pattern(routes: Sequence[BaseRoute], scope: Scope) -> str:
    """The pattern of the route that takes this call, or would take it with another method; else `nowhere`."""
    matches = [(one.matches(scope)[0], _path(one)) for one in routes]
    for wanted in (Match.FULL, Match.PARTIAL):
        for match, pattern in matches:
            if match is wanted:
                return pattern
    return "nowhere"


def _method(scope: Scope) -> str:
    """The method; one that nobody knows is not to make a figure of its own."""
    return scope["method"] if scope["method"] in {"GET", "HEAD", "POST", "DELETE", "OPTIONS"} else "other"
