"""Sign-in of the web page: exchanges an API key for a cookie that scripts cannot read and other sites cannot send."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response, Security

from whale_ray.serving.auth.access_control import authorize
from whale_ray.serving.auth.sessions import COOKIE, SESSION_SECONDS, create_session
from whale_ray.serving.http import openapi

router = APIRouter()


@router.post(
    "/v1/session", status_code=204, dependencies=[Security(authorize)], responses=openapi.problem_responses(403)
)
async def begin(request: Request) -> Response:
    """Exchange the key of `Authorization: Bearer KEY` for a session cookie."""
    answer = Response(status_code=204)
    key = request.scope.get("key")
    if key is not None:
        is_secure = request.url.scheme == "https"
        answer.set_cookie(
            COOKIE, create_session(key), SESSION_SECONDS, httponly=True, samesite="strict", secure=is_secure
        )
    return answer


@router.delete(
    "/v1/session", status_code=204, dependencies=[Security(authorize)], responses=openapi.problem_responses(403)
)
async def end(request: Request) -> Response:
    """Delete the session cookie."""
    answer = Response(status_code=204)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer
