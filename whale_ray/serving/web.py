"""The service as a web application: the routes of the contract over one bundle.

Knows FastAPI, the contract and a recogniser; knows no Ray. Everything of the framework that a route needs stands
in `Service`, which the application holds.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.responses import HTMLResponse

from whale_ray.errors import ImageError
from whale_ray.identify import Bundle, Identification
from whale_ray.serving import docs
from whale_ray.serving.contract import (
    Answer,
    Health,
    Identified,
    IdentifyQuery,
    IndividualPage,
    IndividualsPage,
    IndividualSummary,
    ModelCard,
    ModelQuery,
    PageQuery,
    RefusalError,
    Unidentified,
    refused_image,
)
from whale_ray.serving.guard import Door, Guard, answer_refusals_as_problems
from whale_ray.serving.page import PAGE, PAGE_POLICY
from whale_ray.serving.recogniser import Recogniser
from whale_ray.serving.uploads import Limits, Upload, read_uploads


class Service:
    """A bundle with its catalogue by name, its recogniser, and the limits that hold for callers."""

    def __init__(self, bundle: Bundle, recogniser: Recogniser, *, limits: Limits, most_calls: int) -> None:
        self.bundle, self.recogniser, self.limits, self.door = bundle, recogniser, limits, Door(most_calls)
        self.mailbox = Door(_MOST_READING * most_calls)
        self.on_answer: Callable[[bytes, str, str], None] = lambda data, decision, individual: None
        self.rows = {image: row for row, image in enumerate(bundle.images)}
        by_name: dict[str, list[str]] = {}
        for image, individual in zip(bundle.images, bundle.individuals, strict=True):
            by_name.setdefault(individual, []).append(image)
        self.catalogue = {name: sorted(by_name[name]) for name in sorted(by_name)}
        self.names = list(self.catalogue)

    async def identify(self, upload: Upload, top: int) -> Identified:
        """The answer for one photograph. Raises: ImageError where it cannot be used."""
        found = await self.recogniser.identify(upload.data, top=top)
        self.on_answer(upload.data, found.new_individual.decision, found.candidates[0].individual)
        return _identified(upload, found)

    async def identify_or_say_why(self, upload: Upload, top: int) -> Identified | Unidentified:
        """The answer for one photograph of several, or its problem."""
        try:
            return await self.identify(upload, top)
        except ImageError as error:
            return Unidentified(filename=upload.filename, problem=refused_image(error).problem)


def _identified(upload: Upload, found: Identification) -> Identified:
    return Identified.model_validate({"filename": upload.filename, **asdict(found)})


def _service(request: Request) -> Service:
    """The model that the call chooses by `model`; without it, the first."""
    services: Mapping[str, Service] = request.app.state.services
    name = request.query_params.get("model") or next(iter(services))
    if name not in services:
        raise RefusalError(
            404, f"there is no model {name!r} here. Choose one of {', '.join(services)}, or leave it out"
        )
    return services[name]


_MOST_READING = 4  # bodies that arrive at once, for each call that is answered at once
Here = Annotated[Service, Depends(_service)]
Page = Annotated[PageQuery, Query()]
Model = Annotated[ModelQuery, Query()]
router = APIRouter()


@router.post("/v1/identify", openapi_extra=docs.PHOTOGRAPHS, responses=docs.refusals(404, 408, 413, 415, 422, 503))
async def identify(request: Request, query: Annotated[IdentifyQuery, Query()], service: Here) -> Answer:
    """The individuals that each photograph may show, best first.

    In a call with several photographs each has its own result or problem; of a single one the problem is the answer.
    """
    with service.mailbox:  # whoever sends slowly must not stand in the door
        uploads = await read_uploads(request, service.limits)
    with service.door:
        if len(uploads) == 1:
            return Answer(model=service.bundle.id, results=[await service.identify(uploads[0], query.top)])
        results = await asyncio.gather(*(service.identify_or_say_why(upload, query.top) for upload in uploads))
        return Answer(model=service.bundle.id, results=results)


@router.get("/v1/model", responses=docs.refusals(404))
async def model(request: Request, query: Model, service: Here) -> ModelCard:
    """What answers here: the model card."""
    card, state = service.bundle.card, request.app.state
    return ModelCard(
        id=service.bundle.id,
        encoder=card["settings"]["model"]["encoder"],
        embedding_size=card["embedding_size"],
        individuals=len(service.names),
        images=len(service.rows),
        threshold=service.bundle.threshold,
        new_distance=service.bundle.new_distance,
        retrieval=card["retrieval"],
        scores=card["scores"],
        data_fingerprint=card["data_fingerprint"],
        runtime=service.bundle.runtime,
        default=next(iter(state.services)),
        models={name: one.bundle.id for name, one in state.services.items()},
        shadow=None if state.shadow is None else await state.shadow(),
    )


@router.get("/v1/individuals", responses=docs.refusals(404))
async def individuals(page: Page, service: Here) -> IndividualsPage:
    """The catalogue: who is in the gallery."""
    names, following = _cut(service.names, page, "/v1/individuals")
    found = [IndividualSummary(id=name, images=len(service.catalogue[name])) for name in names]
    return IndividualsPage(total=len(service.names), individuals=found, next=following)


@router.get("/v1/individuals/{id:path}", responses=docs.refusals(404))
async def individual(id: str, page: Page, service: Here) -> IndividualPage:
    """One individual and its gallery photographs."""
    if id not in service.catalogue:
        raise RefusalError(404, f"{id!r} is no individual of this gallery. See /v1/individuals for who is in it")
    everything = service.catalogue[id]
    images, following = _cut(everything, page, f"/v1/individuals/{quote(id, safe='')}")
    return IndividualPage(id=id, total=len(everything), images=images, next=following)


def _cut(names: Sequence[str], page: PageQuery, address: str) -> tuple[list[str], str | None]:
    """The names of this page, and the address of the next one."""
    start = bisect_right(names, page.after) if page.after else 0
    part = list(names[start : start + page.limit])
    last = start + page.limit >= len(names)
    return part, None if last else f"{address}?{urlencode({'after': part[-1], 'limit': page.limit})}"


@router.get("/v1/images/{image:path}", response_class=Response, responses={**docs.JPEG, **docs.refusals(404)})
async def thumbnail(image: str, service: Here) -> Response:
    """The thumbnail of a gallery photograph."""
    if image not in service.rows:
        raise RefusalError(404, f"{image!r} is no photograph of this gallery. See /v1/individuals for what is in it")
    data = service.bundle.contents.thumbnails.get(service.rows[image])
    if data is None:
        raise RefusalError(
            404, f"this bundle has no thumbnail of {image!r}. Make it with `bundle: {{thumbnails: true}}`"
        )
    return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})


@router.get("/healthz")
async def healthz(service: Here) -> Health:
    """The service is ready; not where an encoder does not answer, though calls may still wait for it and succeed."""
    if reason := await service.recogniser.encoder.fault():
        raise RefusalError(503, f"{reason}. Wait until it does", {"Retry-After": "1"})
    return Health(model=service.bundle.id)


@router.get("/", include_in_schema=False)
async def page() -> HTMLResponse:
    """The web page."""
    return HTMLResponse(PAGE, headers={"Content-Security-Policy": PAGE_POLICY})


def build_web(
    services: Mapping[str, Service], *, digest: bytes | None, shadow: Callable[[], Awaitable[Any]] | None = None
) -> FastAPI:
    """The web application of these models, the first of them the default.

    digest: of the key that callers must bring (`guard.key_digest`). shadow: how often a silent bundle agrees.
    """
    app = FastAPI(
        title="whale_ray",
        summary="Recognises individual whales in photographs.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.services, app.state.shadow = services, shadow
    app.include_router(router)
    app.include_router(docs.router)
    answer_refusals_as_problems(app)
    app.add_middleware(Guard, digest=digest)
    docs.describe_refusals(app)
    return app
