"""The service as a web application: the routes of the contract over one or more models.

Knows FastAPI, the contract and its services; knows no Ray. What changes the gallery is in `routes_gallery`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from starlette.types import Scope

from whale_ray.serving.auth.middleware import Entrance, Guard
from whale_ray.serving.auth.problems import answer_refusals_as_problems
from whale_ray.serving.http import openapi, routes_gallery, routes_session
from whale_ray.serving.http.access_log import Access, open_log
from whale_ray.serving.http.model_service import Service, model_of
from whale_ray.serving.http.routes_identify import IDENTIFY, router


@asynccontextmanager
async def _complete_galleries(app: FastAPI) -> AsyncIterator[None]:
    """Embeds what was enrolled with other bundles before the first call; the service is not ready until then."""
    for service in app.state.services.values():
        await service.recogniser.standing()
    yield


def _check_room(services: Mapping[str, Service], scope: Scope) -> None:
    """Refuses at once what would be refused in the end: under overload little is left for those inside otherwise."""
    if (scope["method"], scope["path"]) == ("POST", IDENTIFY):
        service = services.get(model_of(Request(scope), services))
        if service:
            service.door.check_room()


def build_web(
    services: Mapping[str, Service],
    entrance: Entrance | None = None,
    *,
    shadow: Callable[[], Awaitable[Any]] | None = None,
    page: Callable[[], Awaitable[bool]] | None = None,
    echoed: bool = False,
) -> FastAPI:
    """The web application of these models, the first of them the default.

    entrance: who may come in; everybody where there is none. shadow: how often a silent bundle agrees.
    page: whether the web page, which is an application of its own at PAGE, is there. echoed: as of Access.
    """
    entrance = entrance or Entrance()
    app = FastAPI(
        title="whale_ray",
        summary="Recognises individual whales in photographs.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_complete_galleries,
    )
    app.state.services, app.state.shadow, app.state.page = services, shadow, page
    routers = (router, routes_gallery.router, routes_session.router, openapi.router)
    for one in routers:
        app.include_router(one)
    answer_refusals_as_problems(app)
    app.add_middleware(Guard, entrance=entrance, check_room=partial(_check_room, services))
    routes = [route for one in routers for route in one.routes]
    app.add_middleware(Access, write=open_log(entrance.access_log), routes=routes, echoed=echoed)
    openapi.describe_refusals(app)
    return app
