"""Routes of the web page: one HTML page per language and its static files.

All of them are public: a page without a session shows the sign-in form. A strict Content-Security-Policy allows
scripts, styles and calls of this service only.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response, Security
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment

from whale_ray.serving.auth.access_control import allow_anonymous
from whale_ray.serving.page.languages import ASSETS, LANGUAGES, preferred_language
from whale_ray.serving.problem_details import RefusalError

PAGE = "/page"
_PUBLIC = [Security(allow_anonymous)]
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# no-cache: browsers ask again each time, so that files of two versions of the service never mix.
_HEADERS = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache", "Referrer-Policy": "same-origin"}
_MEDIA_TYPES = {
    **{
        f"{name}.js": "text/javascript"
        for name in ("answers", "api", "boxes", "dom", "matches", "page", "photographs", "texts", "waiting")
    },
    "page.css": "text/css",
    "icon.svg": "image/svg+xml",
    **{f"{code}.json": "application/json" for code in LANGUAGES},
}

DOCS_ONLY = APIRouter(include_in_schema=False)
"""Routes of a service without the page."""


@DOCS_ONLY.get("/", dependencies=_PUBLIC)
async def redirect_to_docs() -> Response:
    """Redirect to the description of the HTTP API."""
    return RedirectResponse("/docs")


def page_router(*, image_bytes: int) -> APIRouter:
    """Return the routes of the page.

    Args:
        image_bytes: Largest file that the service accepts as an image; the page refuses larger ones before sending.
    """
    router = APIRouter(include_in_schema=False)
    pages = {code: _render(code, image_bytes) for code in LANGUAGES}
    contents = {name: (ASSETS / name).read_bytes() for name in _MEDIA_TYPES}

    @router.get("/", dependencies=_PUBLIC)
    async def redirect_to_page(request: Request) -> Response:
        """Redirect to the page in the language that the browser prefers."""
        language = preferred_language(request.headers.get("accept-language", ""))
        return RedirectResponse(f"{PAGE}/{language}/", headers={"Vary": "Accept-Language"})

    @router.get(f"{PAGE}/assets/{{name}}", dependencies=_PUBLIC)
    async def asset(name: str) -> Response:
        """Return a static file of the page."""
        if name not in contents:
            raise RefusalError(404, f"the page has no file {name[:100]!r}. Open / for the page")
        return Response(contents[name], media_type=_MEDIA_TYPES[name], headers=_HEADERS)

    @router.get(f"{PAGE}/{{language}}/", dependencies=_PUBLIC)
    async def page(language: str) -> Response:
        """Return the page in one language."""
        if language not in pages:
            known = ", ".join(pages)
            raise RefusalError(
                404, f"the page's languages are {known}, but got {language[:100]!r}. Open / for the page"
            )
        return HTMLResponse(pages[language], headers=_HEADERS)

    return router


def _render(language: str, image_bytes: int) -> str:
    """Return the HTML of the page in one language."""
    template = Environment(autoescape=True).from_string((ASSETS / "index.html.j2").read_text("utf-8"))
    others = {code: texts["language"] for code, texts in LANGUAGES.items() if code != language}
    return template.render(
        language=language, words=LANGUAGES[language], others=others, image_bytes=image_bytes, page=PAGE
    )
