"""Sessions: exchanges an API key for a cookie that scripts cannot read, and tells the caller what a key may do."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response, Security

from whale_ray.serving.auth.access_control import authorize
from whale_ray.serving.auth.api_keys import SCOPES, ApiKey
from whale_ray.serving.auth.sessions import COOKIE, SESSION_SECONDS, create_session
from whale_ray.serving.http import openapi
from whale_ray.serving.http.model_service import ModelParameter, SelectedModel
from whale_ray.serving.schemas import SessionCard

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


@router.get("/v1/session", dependencies=[Security(authorize)], responses=openapi.problem_responses(403, 404))
async def show(request: Request, query: ModelParameter, service: SelectedModel) -> SessionCard:
    """Return the name and the scopes of the caller's key."""
    key: ApiKey | None = request.scope.get("key")
    return SessionCard(
        key=key.name if key else None,
        scopes=[scope for scope in SCOPES if key is None or scope in key.scopes],
        enrolments=service.live_gallery.store is not None,
        review_queue=service.review_queue is not None,
    )


@router.delete(
    "/v1/session", status_code=204, dependencies=[Security(authorize)], responses=openapi.problem_responses(403)
)
async def end(request: Request) -> Response:
    """Delete the session cookie."""
    answer = Response(status_code=204)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer
