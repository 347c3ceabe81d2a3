"""What of the page can be reached, and by whom: Gradio answers more addresses than a page needs.

Knows ASGI, keys and Gradio's addresses; knows no photograph and no service.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader
from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from whale_ray.serving.auth.api_keys import IDENTIFY, ApiKeys
from whale_ray.serving.auth.sessions import COOKIE, find_session_key
from whale_ray.serving.translations import LANGUAGES

FOLDER_VARIABLE = "GRADIO_TEMP_DIR"
KEPT_SECONDS = 3600.0
KEPT_BYTES = 4 * 2**30
_SWEEP_SECONDS = 60.0
_PREFIX = "whale_ray-page-"
ASSETS = files(__package__) / "assets"
TEMPLATES = Environment(loader=PackageLoader("whale_ray.serving.page", "assets"), autoescape=True)
_SIGN_IN = TEMPLATES.get_template("sign_in.html.j2")
_FILE = "gradio_api/file="
_UPLOAD = "gradio_api/upload"
_ADDRESSES: Mapping[str, re.Pattern[str]] = {
    "GET": re.compile(
        r"|config|theme\.css|(assets|static|svelte)/.*|favicon\.ico|manifest\.json|"
        r"gradio_api/(theme\.css|heartbeat/\w+|queue/data|upload_progress|app_id|info|startup-events)"
    ),
    "POST": re.compile(r"gradio_api/(queue/join|upload|cancel|reset/?)"),
}
_CORS = b"access-control-"
# Gradio's own page writes its settings and styles into itself.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' blob: data:; font-src 'self' data:; base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
)


class Fence:
    """ASGI middleware: answers the page's own addresses and no other of Gradio's, to readers who may ask the service.

    Gradio would let some other sites read its answers; nobody else's page may.

    upload_bytes, upload_seconds: of all photographs that come at once, at most.
    """

    def __init__(self, app: ASGIApp, *, keys: ApiKeys, upload_bytes: int, upload_seconds: float) -> None:
        self._app, self._keys, self._most, self._seconds = app, keys, upload_bytes, upload_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the call on, or answers it: with the page that asks for the key, 401 or 404."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def told(message: Message) -> None:
            if body.refusal:  # Gradio would call it a fault of its own
                return
            if message["type"] == "http.response.start":
                kept = [each for each in message.get("headers", ()) if not each[0].lower().startswith(_CORS)]
                message["headers"] = [*kept, (b"content-security-policy", _POLICY.encode())]
            await send(message)

        body = _Body(receive, self._most, self._seconds)
        await (self._answer(scope) or self._app)(scope, body.receive, told)
        if body.refusal:
            await body.refusal(scope, receive, send)

    def _answer(self, scope: Scope) -> ASGIApp | None:
        """What is answered in Gradio's place."""
        language, _, address = _within(scope).partition("/")
        words = LANGUAGES.get(language)
        if words is None or not _is_of_the_page(scope["method"], address):
            return JSONResponse({"detail": "the page has nothing at this address. See /"}, 404)
        if not self._keys or self._may(Headers(scope=scope)):
            return _no_room() if address == _UPLOAD and _bytes_kept() > KEPT_BYTES else None
        if address == "" and scope["method"] == "GET":
            return HTMLResponse(_SIGN_IN.render(language=language, words=words))
        return JSONResponse({"detail": words.session_over}, 401)

    def _may(self, headers: Headers) -> bool:
        key = find_session_key(cookie_parser(headers.get("cookie", "")).get(COOKIE, ""), self._keys)
        return key is not None and IDENTIFY in key.scopes


def _bytes_kept() -> int:
    """How much the readers' photographs have together."""
    total = 0
    for path in Path(os.environ[FOLDER_VARIABLE]).rglob("*"):
        with suppress(OSError):  # swept meanwhile
            total += path.stat().st_size
    return total


def _no_room() -> JSONResponse:
    detail = f"{KEPT_BYTES:,} bytes of photographs wait to be erased. Try again in a few minutes"
    return JSONResponse({"detail": detail}, 503, {"Retry-After": str(int(_SWEEP_SECONDS))})


def _within(scope: Scope) -> str:
    """The path below the place where the page is mounted, without its first slash."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path.removeprefix(root).lstrip("/")


def _is_of_the_page(method: str, address: str) -> bool:
    if method in ("GET", "HEAD") and address.startswith(_FILE):
        path = os.path.normpath(address.removeprefix(_FILE))
        return Path(path).is_relative_to(os.environ[FOLDER_VARIABLE])
    known = _ADDRESSES.get("GET" if method == "HEAD" else method)
    return known is not None and known.fullmatch(address) is not None


class _Body:
    """ASGI's receive, which tells of a body that ends too early where it has more than `most` bytes or `seconds`."""

    def __init__(self, receive: Receive, most: int, seconds: float) -> None:
        self._receive, self._most, self._left, self._seconds = receive, most, most, seconds
        self.refusal: JSONResponse | None = None
        self._until: float | None = asyncio.get_running_loop().time() + seconds

    async def receive(self) -> Message:
        """The next message."""
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            return self._refuse(
                408, f"the photographs must arrive within {self._seconds:g} s, but did not. Send them again"
            )
        if not message.get("more_body"):
            self._until = None  # what comes then is the reader's leaving, which may take as long as it likes
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            return self._refuse(
                413, f"at most {self._most:,} bytes of photographs come at once, but these have more. Send fewer"
            )
        return message

    def _refuse(self, status: int, detail: str) -> Message:
        self.refusal = JSONResponse({"detail": detail}, status, {"Connection": "close"})
        return {"type": "http.disconnect"}


def own_folder(parent: Path) -> Path:
    """A new folder for photographs of readers, swept by `sweep`; those of processes that have ended are erased."""
    for folder in parent.glob(f"{_PREFIX}*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(folder, ignore_errors=True)
    folder = parent / f"{_PREFIX}{os.getpid()}-{time.time_ns()}"
    folder.mkdir(mode=0o700)
    return folder


def sweep(folder: Path, *, seconds: float = KEPT_SECONDS, now: float | None = None) -> None:
    """Erases every file below `folder` that is older."""
    now = time.time() if now is None else now
    for path in folder.rglob("*"):
        try:
            if path.is_file() and now - path.stat().st_mtime > seconds:
                path.unlink()
        except OSError:
            continue


def keep_sweeping(folder: Path) -> None:
    """Sweeps every minute, on a thread, for as long as this process lives."""

    def run() -> None:
        while True:
            time.sleep(_SWEEP_SECONDS)
            sweep(folder)

    threading.Thread(target=run, name="sweep photographs", daemon=True).start()
