"""Problem documents (RFC 9457, `application/problem+json`) for every exception, the framework's own included."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from whale_ray.errors import ImageError, StoreError
from whale_ray.serving.auth.access_control import authorize_unmatched
from whale_ray.serving.problem_details import PROBLEM_TYPE, Problem, RefusalError, problem, refused_image

_log = logging.getLogger(__name__)


def add_problem_handlers(app: FastAPI) -> None:
    """Answer the refusals of the application, and those of the framework, with problem documents."""
    for kind in (RefusalError, ImageError, StoreError, RequestValidationError):
        app.add_exception_handler(kind, _handle)
    app.add_exception_handler(HTTPException, _handle_unmatched)


async def _handle(request: Request, error: Exception) -> Response:
    return problem_response(error)


async def _handle_unmatched(request: Request, error: Exception) -> Response:
    """Answer 404 or 405 of the router, to callers with a key only."""
    try:
        await authorize_unmatched(request)
    except RefusalError as refusal:
        error = refusal
    return problem_response(error)


def problem_response(error: Exception) -> Response:
    """Return the problem document of an exception: 503 without details for an unexpected one."""
    if isinstance(error, ImageError):
        error = refused_image(error)
    if isinstance(error, StoreError):
        error = _store_refusal(error)
    if isinstance(error, RefusalError):
        return _response(error.problem, error.headers)
    if isinstance(error, RequestValidationError):
        return _response(problem(400, "; ".join(map(_validation_fault, error.errors())) + ". See /docs"))
    if isinstance(error, HTTPException):
        return _response(_framework_problem(error), dict(error.headers or {}))
    detail = "the service failed to answer this call; its log has the reason. Try again; tell the operator if it recurs"
    return _response(problem(503, detail), {"Retry-After": "5"})


def _store_refusal(error: StoreError) -> RefusalError:
    if error.status != 503:
        return RefusalError(error.status, str(error))
    _log.error("%s", error)  # the address of the database and its message are for the operator only
    detail = "the enrolment database does not answer. Try again; the service's log has the reason"
    return RefusalError(503, detail, {"Retry-After": "5"})


def _response(answer: Problem, headers: dict[str, str] | None = None) -> Response:
    # The rest of a refused body is not read: it may never end.
    closing = {"Connection": "close"} if answer.status in (408, 413) else {}
    return JSONResponse(answer.model_dump(), answer.status, {**(headers or {}), **closing}, media_type=PROBLEM_TYPE)


def _validation_fault(error: dict[str, object]) -> str:
    location = error["loc"]
    name = location[-1] if isinstance(location, (tuple, list)) and location else "the call"
    if error["type"] == "extra_forbidden":
        return f"`{name}` is not a parameter of this call"
    message = str(error["msg"])
    return f"`{name}`: {message[:1].lower()}{message[1:]}, but got {str(error.get('input'))[:100]!r}"


def _framework_problem(error: HTTPException) -> Problem:
    remedies = {
        404: "no route has this path. See /docs",
        405: f"this path accepts only {Headers(error.headers).get('allow', 'other methods')}. See /docs",
    }
    return problem(error.status_code, remedies.get(error.status_code, f"{error.detail}. See /docs"))


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
