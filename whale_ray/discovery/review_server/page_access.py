"""Access to the review page: a token in the printed address, then a cookie; checks of Host and Origin.

A page of another site can make a browser call this machine, but it has neither the cookie (SameSite=Strict) nor the
choice of the headers Host and Origin.
"""

from __future__ import annotations

import hmac
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from whale_ray.web.host_origin import SAFE_METHODS, is_known_host, is_same_origin

COOKIE = "whale_ray_discover"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class PageAccess:
    """Middleware that admits only the holder of the token, and sets the security headers of every response."""

    def __init__(self, app: ASGIApp, *, token: str) -> None:
        """Wrap an application.

        Args:
            app: The application that gets the admitted calls.
            token: The secret of the printed address.
        """
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on an admitted call; refuse others with 401, 403 or 421."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        answer = self._answer(scope) or self._app
        await answer(scope, receive, send_with_headers)

    def _answer(self, scope: Scope) -> Response | None:
        """Return a refusal or the redirect that sets the cookie; None for an admitted call."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not is_known_host(host):
            return problem(421, f"the Host must be an IP address or localhost, but is {host[:100]!r}")
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if given and self._is_token(given):
            redirect = RedirectResponse(scope["path"], status_code=303)
            redirect.set_cookie(_cookie_name(host), self._token, httponly=True, samesite="strict")
            return redirect
        if not self._is_token(_cookie(headers)):
            return problem(401, "the page needs its token. Open the address that whale-ray discover printed")
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if scope["method"] not in SAFE_METHODS and not is_same_origin(host, origin=origin, site=site):
            return problem(403, "only the page itself may change answers. Open it at the printed address")
        return None

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())


def problem(status: int, detail: str) -> JSONResponse:
    """Return a refusal as `application/problem+json`.

    Args:
        status: HTTP status.
        detail: Reason and remedy.
    """
    content = {"status": status, "detail": detail}
    return JSONResponse(content, status_code=status, media_type="application/problem+json")


def _cookie_name(host: str) -> str:
    """Return the name of the cookie: browsers send a cookie to all ports of a host."""
    return f"{COOKIE}_{host.rpartition(':')[2] if host[-1:].isdigit() else ''}"


def _cookie(headers: Headers) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(_cookie_name(headers.get("host", "")))
    except CookieError:
        return ""
    return found.value if found else ""
