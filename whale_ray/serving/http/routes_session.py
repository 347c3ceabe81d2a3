"""The page's way in: a key exchanged for a cookie that no script can read and no other site can send.

Knows FastAPI and the guard; knows no bundle and no Ray.
"""

from __future__ import annotations

import time

from fastapi import APIRouter, Request, Response

from whale_ray.serving.auth.api_keys import SESSION_SECONDS, Keys
from whale_ray.serving.auth.middleware import COOKIE, SESSION
from whale_ray.serving.http import openapi

router = APIRouter()


@router.post(SESSION, status_code=204, responses=openapi.refusals(403))
async def begin(request: Request) -> Response:
    """Exchanges the key of `Authorization: Bearer KEY` for a cookie, for a page in a browser."""
    answer = Response(status_code=204)
    key = request.scope.get("key")
    if key is not None:
        session = Keys((key,)).session(key, now=time.time())
        secure = request.url.scheme == "https"
        answer.set_cookie(COOKIE, session, SESSION_SECONDS, httponly=True, samesite="strict", secure=secure)
    return answer


@router.delete(SESSION, status_code=204, responses=openapi.refusals(403))
async def end(request: Request) -> Response:
    """Has the browser forget the cookie."""
    answer = Response(status_code=204)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer
