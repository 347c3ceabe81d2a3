"""FastAPI application of the review page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from jinja2 import Environment
from pydantic import BaseModel, Field

from whale_ray.discovery.review_server.page_access import PageAccess, problem
from whale_ray.discovery.review_server.page_state import page_state
from whale_ray.discovery.review_server.pair_pictures import LARGE, SMALL, PairPictures
from whale_ray.discovery.session import DiscoverySession
from whale_ray.errors import DataError, ImageError

ASSETS = Path(__file__).parent / "assets"
_MEDIA_TYPES = {"page.css": "text/css", "page.js": "text/javascript"}
_PICTURE_HEADERS = {"Cache-Control": "private, max-age=600"}


class AnswerBody(BaseModel):
    """An answer from the page."""

    first: int
    second: int
    verdict: str = Field(max_length=20)
    person: str = Field(max_length=200)


class UndoBody(BaseModel):
    """An answer that is taken back."""

    number: int
    person: str = Field(max_length=200)


def build_review_app(session: DiscoverySession, *, token: str, person: str) -> FastAPI:
    """Return the application of the page.

    Args:
        session: The discovery.
        token: The secret of the printed address.
        person: Name in the page's field before a person changes it.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.add_middleware(PageAccess, token=token)
    _add_page(app, session, person)
    _add_answers(app, session)
    _add_pictures(app, PairPictures(session.catalog, session.images))

    @app.exception_handler(RequestValidationError)
    async def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
        """Return the first fault of a call as a problem."""
        first = error.errors()[0]
        return problem(422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}. Reload the page")

    return app


def _add_page(app: FastAPI, session: DiscoverySession, person: str) -> None:
    template = Environment(autoescape=True).from_string((ASSETS / "index.html.j2").read_text("utf-8"))
    page = template.render(person=person, folder=session.folder.path.name)

    @app.get("/")
    async def index() -> Response:
        """Return the page."""
        return HTMLResponse(page)

    @app.get("/assets/{name}")
    async def asset(name: str) -> Response:
        """Return a static file of the page."""
        if name not in _MEDIA_TYPES:
            return problem(404, f"the page has no file {name[:100]!r}. Open / for the page")
        return Response((ASSETS / name).read_bytes(), media_type=_MEDIA_TYPES[name])

    @app.get("/state")
    def state() -> dict[str, Any]:
        """Return progress and the next questions."""
        return page_state(session)


def _add_answers(app: FastAPI, session: DiscoverySession) -> None:
    @app.post("/answers")
    def answer(body: AnswerBody) -> Any:
        """Save an answer and return the state."""
        try:
            session.answer(body.first, body.second, body.verdict, person=body.person)
        except ValueError as error:
            return problem(422, f"{error}. Reload the page")
        return page_state(session)

    @app.post("/undo")
    def undo(body: UndoBody) -> Any:
        """Take an answer back and return the state."""
        try:
            session.undo(body.number, person=body.person)
        except KeyError:
            return problem(404, f"there is no answer {body.number} to take back. Reload the page")
        return page_state(session)


def _add_pictures(app: FastAPI, pictures: PairPictures) -> None:
    @app.get("/pictures/{row}")
    def picture(row: int, small: bool = False) -> Response:
        """Return a photograph as JPEG."""
        if not 0 <= row < len(pictures):
            return problem(404, f"there is no photograph {row}. Reload the page")
        data = pictures.photograph(row, SMALL if small else LARGE)
        return Response(data, media_type="image/jpeg", headers=_PICTURE_HEADERS)

    @app.get("/matches/{first}/{second}")
    def matches(first: int, second: int) -> Response:
        """Return a pair as JPEG with the lines of its inliers; their number is in the header X-Inliers."""
        if not (0 <= first < len(pictures) and 0 <= second < len(pictures)):
            return problem(404, f"there is no pair {first} and {second}. Reload the page")
        try:
            data, inliers = pictures.matches(first, second)
        except (ImageError, DataError, OSError) as error:
            return problem(422, f"a photograph cannot be decoded ({error}). Copy it again")
        return Response(data, media_type="image/jpeg", headers={**_PICTURE_HEADERS, "X-Inliers": str(inliers)})
