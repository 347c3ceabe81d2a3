"""Access control of the routes: each route declares the scope that a key needs; without a declaration nothing starts.

A route is declared with `dependencies=[Security(authorize, scopes=[IDENTIFY])]`, with `Security(authorize)` (any key)
or with `Security(allow_anonymous)` (no key). FastAPI shows the scopes in OpenAPI.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import FastAPI, Request, Security
from fastapi.params import Security as SecurityParameter
from fastapi.routing import iter_route_contexts
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes

from whale_ray.serving.auth.api_keys import NO_KEYS, ApiKey, ApiKeys
from whale_ray.serving.auth.rate_limit import RateLimiter
from whale_ray.serving.auth.sessions import COOKIE, find_session_key
from whale_ray.serving.problem_details import RefusalError

_BEARER = HTTPBearer(scheme_name="key", description="An API key of the service.", auto_error=False)
_COOKIE = APIKeyCookie(
    name=COOKIE, scheme_name="session", description="The cookie of `POST /v1/session`.", auto_error=False
)


@dataclass(frozen=True)
class AccessPolicy:
    """The callers that a service accepts.

    Attributes:
        keys: Accepted API keys; without keys every call is accepted.
        hosts: Lower-case names in the Host header that are accepted beside IP addresses and localhost.
        calls_per_minute: Rate limit of each key in each replica; 0 sets no limit.
        access_log: `-` (stderr), `none` or a file.
    """

    keys: ApiKeys = NO_KEYS
    hosts: frozenset[str] = frozenset()
    calls_per_minute: int = 0
    access_log: str = "none"


class AccessControl:
    """Authentication, scope check and rate limit of one application."""

    def __init__(self, policy: AccessPolicy) -> None:
        self._keys, self._rate_limiter = policy.keys, RateLimiter(policy.calls_per_minute)

    def check(
        self,
        request: Request,
        *,
        bearer: HTTPAuthorizationCredentials | None,
        session: str | None,
        scopes: Sequence[str] = (),
    ) -> None:
        """Accept the call and note its key in the ASGI scope (`key`, `key_name`).

        Args:
            request: The call.
            bearer: Key of the Authorization header.
            session: Value of the session cookie; ignored if `bearer` is given.
            scopes: Scopes that the key needs.

        Raises:
            RefusalError: 401 without a valid key, 403 if the key lacks a scope, 429 above the rate limit.
        """
        if not self._keys:
            return
        key = self._keys.find(bearer.credentials.strip()) if bearer else find_session_key(session or "", self._keys)
        if key is None:
            given = "an unknown one" if "authorization" in request.headers else "none"
            raise RefusalError(
                401,
                f"an API key is required, but the call has {given}. Send the header `Authorization: Bearer KEY`; "
                "the operator of the service issues keys",
                {"WWW-Authenticate": "Bearer"},
            )
        request.scope["key"], request.scope["key_name"] = key, key.name
        _check_scopes(key, scopes)
        if wait := self._rate_limiter.wait_seconds(key.name):
            detail = "this key has reached its rate limit. Wait the number of seconds in Retry-After"
            raise RefusalError(429, detail, {"Retry-After": str(math.ceil(wait))})


def _check_scopes(key: ApiKey, scopes: Sequence[str]) -> None:
    missing = [scope for scope in scopes if scope not in key.scopes]
    if missing:
        raise RefusalError(
            403,
            f"this call needs a key with the scope `{missing[0]}`, but this key has {', '.join(sorted(key.scopes))}. "
            "Use another key",
        )


async def authorize(
    request: Request,
    required: SecurityScopes,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)],
    session: Annotated[str | None, Security(_COOKIE)],
) -> None:
    """Accept a call whose key has the scopes that its route declares (a FastAPI dependency).

    Args:
        request: The call.
        required: Scopes that the route declares; none: any key of the service.
        bearer: Key of the Authorization header.
        session: Value of the session cookie.

    Raises:
        RefusalError: 401, 403 or 429, as `AccessControl.check`.
    """
    access_control: AccessControl = request.app.state.access_control
    access_control.check(request, bearer=bearer, session=session, scopes=required.scopes)


async def authorize_unmatched(request: Request) -> None:
    """Refuse a call without a key to an unknown path, so that 404 and 405 do not reveal the routes.

    Raises:
        RefusalError: 401 or 429, as `AccessControl.check`.
    """
    access_control: AccessControl = request.app.state.access_control
    access_control.check(request, bearer=await _BEARER(request), session=await _COOKIE(request))


async def allow_anonymous() -> None:
    """Accept every call: the declaration of a public route (a FastAPI dependency)."""


def check_declared_scopes(app: FastAPI) -> None:
    """Raise RuntimeError if a route of the application declares neither a scope nor that it is public."""
    for route in iter_route_contexts(app.routes):
        declared = [one.dependency for one in getattr(route, "dependencies", ()) if isinstance(one, SecurityParameter)]
        if authorize not in declared and allow_anonymous not in declared:
            raise RuntimeError(
                f"each route must declare the scope that its callers need, but {route.path} declares none. "
                "Add dependencies=[Security(authorize, scopes=[...])] or [Security(allow_anonymous)]"
            )
