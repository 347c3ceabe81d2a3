"""What stands around every call: who may in, how many at once, and that each refusal is a problem, never a trace.

Knows ASGI, keys and problems; knows no photograph and no bundle.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from types import TracebackType

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from whale_ray.errors import ImageError, StoreError
from whale_ray.serving.contract import PROBLEM_TYPE, Problem, RefusalError, problem, refused_image

OPEN_TO_ALL = frozenset({"/", "/healthz"})
_KEY_REMEDY = "Send the header `Authorization: Bearer KEY`; who runs the service knows the key"
_log = logging.getLogger(__name__)


def key_digest(key: str | None) -> bytes | None:
    """What the service keeps of its key, so that the key itself travels nowhere; None where there is none."""
    return hashlib.sha256(key.encode()).digest() if key else None


class Door:
    """Lets at most `most` calls in at once; the others are told to come again."""

    def __init__(self, most: int) -> None:
        self._most, self._inside = most, 0

    def __enter__(self) -> None:
        if self._inside >= self._most:
            detail = f"at most {self._most} calls are answered at once, and there are as many. Try again shortly"
            raise RefusalError(503, detail, {"Retry-After": "1"})
        self._inside += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inside -= 1


class Guard:
    """ASGI middleware: asks for the key where there is one, and answers for whatever goes wrong inside."""

    def __init__(self, app: ASGIApp, *, digest: bytes | None) -> None:
        self._app, self._digest = app, digest

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
            self._check_key(scope)
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            return
        except Exception as error:
            if not isinstance(error, RefusalError):
                _log.exception("%s %s failed", scope["method"], scope["path"])
            if not started:
                await _answer(error)(scope, receive, watched)

    def _check_key(self, scope: Scope) -> None:
        if self._digest is None or scope["path"] in OPEN_TO_ALL:
            return
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        given = hashlib.sha256(key.strip().encode("latin-1")).digest()
        if scheme.lower() != "bearer" or not hmac.compare_digest(given, self._digest):
            detail = f"this call needs the service's key, but came with {'another' if key else 'none'}. {_KEY_REMEDY}"
            raise RefusalError(401, detail, {"WWW-Authenticate": "Bearer"})


def answer_refusals_as_problems(app: FastAPI) -> None:
    """Makes every refusal of the application, the framework's own too, a problem."""
    for kind in (RefusalError, ImageError, StoreError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _handle)


async def _handle(request: Request, error: Exception) -> Response:
    return _answer(error)


def _answer(error: Exception) -> Response:
    if isinstance(error, ImageError):
        error = refused_image(error)
    if isinstance(error, StoreError):
        error = RefusalError(error.status, str(error), {"Retry-After": "5"} if error.status == 503 else None)
    if isinstance(error, RefusalError):
        return _response(error.problem, error.headers)
    if isinstance(error, RequestValidationError):
        return _response(problem(400, "; ".join(map(_fault, error.errors())) + ". See /docs"))
    if isinstance(error, HTTPException):
        return _response(_framework_problem(error), dict(error.headers or {}))
    detail = "the service could not answer this call; its log says why. Try again, and tell who runs it if it lasts"
    return _response(problem(503, detail), {"Retry-After": "5"})


def _response(answer: Problem, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(answer.model_dump(), answer.status, headers, media_type=PROBLEM_TYPE)


def _fault(error: dict[str, object]) -> str:
    place = error["loc"]
    name = place[-1] if isinstance(place, (tuple, list)) and place else "the call"
    if error["type"] == "extra_forbidden":
        return f"`{name}` is not known here"
    message = str(error["msg"])
    return f"`{name}`: {message[:1].lower()}{message[1:]}, but got {str(error.get('input'))[:100]!r}"


def _framework_problem(error: HTTPException) -> Problem:
    remedies = {
        404: "there is nothing at this address. See /docs for what there is",
        405: f"this address answers {Headers(error.headers).get('allow', 'other methods')} alone. See /docs",
    }
    return problem(error.status_code, remedies.get(error.status_code, f"{error.detail}. See /docs"))
