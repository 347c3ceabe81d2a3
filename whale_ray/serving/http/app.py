"""Web application of the service: builds the FastAPI application that serves one or more models.

It adds the routers, middleware, access control and problem handlers, and does not depend on Ray.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from whale_ray.serving.auth.access_control import AccessControl, AccessPolicy, check_declared_scopes
from whale_ray.serving.auth.host_origin import HostOriginMiddleware
from whale_ray.serving.http import openapi, routes_catalog, routes_gallery, routes_identify, routes_session
from whale_ray.serving.http.access_log import AccessLogMiddleware, open_access_log
from whale_ray.serving.http.model_service import ModelService
from whale_ray.serving.http.problems import ProblemMiddleware, add_problem_handlers
from whale_ray.serving.http.review import routes_proposals, routes_review
from whale_ray.serving.page import routes_page


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Check the routes and embed images that were enrolled with other bundles; the service is not ready until then.

    While it runs, the default model searches waiting photographs again.
    """
    check_declared_scopes(app)
    for service in app.state.services.values():
        await service.recognizer.snapshot()
    backlog = next(iter(app.state.services.values())).backlog
    searching = asyncio.create_task(backlog.run()) if backlog else None
    yield
    if searching is not None:
        searching.cancel()
    for handler in app.state.access_log.handlers if app.state.access_log else ():
        handler.close()


def build_app(
    services: Mapping[str, ModelService],
    policy: AccessPolicy | None = None,
    *,
    shadow: Callable[[], Awaitable[Any]] | None = None,
    page: bool = True,
    echoed: bool = False,
) -> FastAPI:
    """Return the web application of one or more models.

    Args:
        services: Name → model; the first one is the default.
        policy: Accepted callers; None accepts every call.
        shadow: Returns how often the shadow bundle agrees with the default one.
        page: Serve the web page; otherwise / leads to /docs.
        echoed: A server before this one copies the caller's X-Request-Id into the answer.

    Raises:
        RuntimeError: If a route declares no scope.
    """
    policy = policy or AccessPolicy()
    app = FastAPI(
        title="whale_ray",
        summary="Recognises individual whales in photographs.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
    )
    app.state.services, app.state.shadow = services, shadow
    app.state.access_control, app.state.access_log = AccessControl(policy), open_access_log(policy.access_log)
    limits = next(iter(services.values())).limits
    root = routes_page.page_router(image_bytes=limits.image_bytes) if page else routes_page.DOCS_ONLY
    routers = (
        routes_identify.router,
        routes_catalog.router,
        routes_gallery.router,
        routes_review.router,
        routes_proposals.router,
        routes_session.router,
        openapi.router,
        root,
    )
    for one in routers:
        app.include_router(one)
    check_declared_scopes(app)
    add_problem_handlers(app)
    app.add_middleware(HostOriginMiddleware, hosts=policy.hosts)
    app.add_middleware(ProblemMiddleware)
    routes = [route for one in routers for route in one.routes]
    app.add_middleware(AccessLogMiddleware, logger=app.state.access_log, routes=routes, echoed=echoed)
    openapi.add_problem_schema(app)
    return app
