"""What stands around every call: who may in, and that each refusal is a problem, never a trace.

Knows ASGI, keys, origins and problems; knows no photograph and no bundle.
"""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from whale_ray.errors import ImageError, StoreError
from whale_ray.serving.schemas import PROBLEM_TYPE, Problem, RefusalError, problem, refused_image

_log = logging.getLogger(__name__)


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
        error = _store_refusal(error)
    if isinstance(error, RefusalError):
        return _response(error.problem, error.headers)
    if isinstance(error, RequestValidationError):
        return _response(problem(400, "; ".join(map(_fault, error.errors())) + ". See /docs"))
    if isinstance(error, HTTPException):
        return _response(_framework_problem(error), dict(error.headers or {}))
    detail = "the service could not answer this call; its log says why. Try again, and tell who runs it if it lasts"
    return _response(problem(503, detail), {"Retry-After": "5"})


def _store_refusal(error: StoreError) -> RefusalError:
    if error.status != 503:
        return RefusalError(error.status, str(error))
    _log.error("%s", error)  # where the database is, and what it says, is for who runs the service
    detail = "the database of enrolments must answer, but does not. Try again; the service's log says why if it lasts"
    return RefusalError(503, detail, {"Retry-After": "5"})


def _response(answer: Problem, headers: dict[str, str] | None = None) -> Response:
    # What is left of a body that is refused is not waited for: it may never end.
    closing = {"Connection": "close"} if answer.status in (408, 413) else {}
    return JSONResponse(answer.model_dump(), answer.status, {**(headers or {}), **closing}, media_type=PROBLEM_TYPE)


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
