"""What stands around every call: who may in, and that each refusal is a problem, never a trace.

Knows ASGI, keys, origins and problems; knows no photograph and no bundle.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from whale_ray.serving.auth.api_keys import ENROL, IDENTIFY, NO_KEYS, Key, Keys, Rate
from whale_ray.serving.auth.host_origin import check_host, check_origin
from whale_ray.serving.auth.problems import _answer
from whale_ray.serving.schemas import RefusalError

OPEN_TO_ALL = frozenset({"/", "/healthz"})
SESSION = "/v1/session"
COOKIE = "whale_ray_session"
_TEACHES = re.compile(r"/v1/(individuals/.*|versions.*|queries.*)", re.DOTALL)
_KEY_REMEDY = "Send the header `Authorization: Bearer KEY`; who runs the service knows the key"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entrance:
    """Who may come in. hosts: names that the service answers to beside addresses and localhost.

    calls_per_minute: of each key, in each replica; 0: as many as it likes. access_log: `-`, `none` or a file.
    """

    keys: Keys = NO_KEYS
    hosts: frozenset[str] = frozenset()
    calls_per_minute: int = 0
    access_log: str = "none"


class Guard:
    """ASGI middleware: lets in who may come in, and answers for whatever goes wrong inside.

    check_room: raises RefusalError where a call, before anything of it is read, finds no room.
    """

    def __init__(
        self, app: ASGIApp, *, entrance: Entrance, check_room: Callable[[Scope], None] = lambda scope: None
    ) -> None:
        self._app, self._keys, self._hosts, self._check_room = app, entrance.keys, entrance.hosts, check_room
        self._rate = Rate(entrance.calls_per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the call on, or answers it with a problem."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), (b"x-content-type-options", b"nosniff")]
            await send(message)

        try:
            self._check(scope)
            self._check_room(scope)
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            return
        except Exception as error:
            if not isinstance(error, RefusalError):
                _log.exception("%s %s failed (%s)", scope["method"], scope["path"], scope.get("request_id"))
            if not started:
                await _answer(error)(scope, receive, watched)

    def _check(self, scope: Scope) -> None:
        headers, method, path = Headers(scope=scope), scope["method"], scope["path"]
        if path == "/healthz":
            return
        check_host(headers, self._hosts)
        check_origin(method, headers)
        if not self._keys or path in OPEN_TO_ALL:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        key = self._keys.find(given.strip()) if scheme.lower() == "bearer" else key_of_cookie(headers, self._keys)
        if key is None:
            came = "another" if given else "none"
            detail = f"this call needs the service's key, but came with {came}. {_KEY_REMEDY}"
            raise RefusalError(401, detail, {"WWW-Authenticate": "Bearer"})
        scope["key_name"], scope["key"] = key.name, key
        self._check_scope(key, scope_of(method, path))
        self._check_rate(key)

    def _check_scope(self, key: Key, needed: str | None) -> None:
        if needed and needed not in key.scopes:
            raise RefusalError(
                403, f"this call needs a key that may {needed}, but this one may not. Ask for another key"
            )

    def _check_rate(self, key: Key) -> None:
        wait = self._rate.wait(key.name)
        if wait:
            detail = "this key has made as many calls as it may in a minute. Wait for as long as Retry-After says"
            raise RefusalError(429, detail, {"Retry-After": str(math.ceil(wait))})


def key_of_cookie(headers: Headers, keys: Keys) -> Key | None:
    """The key for which the caller's browser got its cookie, while that lasts."""
    session = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
    return keys.of_session(session, now=time.time())


def scope_of(method: str, path: str) -> str | None:
    """What a key must allow for this call: `enrol` for what changes the gallery, and for other people's photographs
    that wait; nothing for exchanging the key itself.
    """
    if path == SESSION:
        return None
    changes = method not in ("GET", "HEAD") and _TEACHES.fullmatch(path)
    return ENROL if changes or path.startswith("/v1/queries") else IDENTIFY
