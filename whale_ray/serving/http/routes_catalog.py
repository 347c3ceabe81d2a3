"""Read-only routes on the catalog: model card, individuals, thumbnails, examples and readiness."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response, Security

from whale_ray.serving.auth.access_control import allow_anonymous, authorize
from whale_ray.serving.auth.api_keys import IDENTIFY
from whale_ray.serving.http import openapi
from whale_ray.serving.http.model_service import ModelParameter, ModelService, SelectedModel
from whale_ray.serving.problem_details import RefusalError
from whale_ray.serving.query_parameters import ImageQuery, IndividualPageQuery, PageParameters, PageQuery
from whale_ray.serving.resource_names import individual_path, resolve_name
from whale_ray.serving.schemas import (
    Example,
    Examples,
    Health,
    IndividualPage,
    IndividualsPage,
    IndividualSummary,
    ModelCard,
)

ExampleNumber = Annotated[int, Path(ge=0, le=10**9)]
router = APIRouter()


@router.get(
    "/v1/model", dependencies=[Security(authorize, scopes=[IDENTIFY])], responses=openapi.problem_responses(404)
)
async def model(request: Request, query: ModelParameter, service: SelectedModel) -> ModelCard:
    """Return the model card."""
    card, snapshot, state = service.bundle.card, await service.recognizer.snapshot(), request.app.state
    return ModelCard(
        id=service.bundle.id,
        encoder=card["settings"]["model"]["encoder"],
        embedding_size=card["embedding_size"],
        individuals=len(snapshot.individuals),
        images=len(snapshot.gallery.images),
        threshold=service.bundle.threshold,
        new_distance=service.bundle.new_distance,
        decision=card.get("decision"),
        species_thresholds=service.bundle.species_thresholds,
        viewpoints=service.bundle.gallery.searcher.viewpoints,
        species=service.bundle.gallery.searcher.species,
        retrieval=card["retrieval"],
        scores=card["scores"],
        data_fingerprint=card["data_fingerprint"],
        runtime=service.bundle.runtime,
        default=next(iter(state.services)),
        models={name: one.bundle.id for name, one in state.services.items()},
        shadow=None if state.shadow is None else await state.shadow(),
    )


@router.get(
    "/v1/individuals", dependencies=[Security(authorize, scopes=[IDENTIFY])], responses=openapi.problem_responses(404)
)
async def individuals(page: PageParameters, service: SelectedModel) -> IndividualsPage:
    """List the individuals in the gallery."""
    everyone = (await service.recognizer.snapshot()).individuals
    names, following = _paginate(list(everyone), page, service, "/v1/individuals")
    found = [IndividualSummary(id=name, images=len(everyone[name])) for name in names]
    return IndividualsPage(total=len(everyone), individuals=found, next=following)


@router.get(
    "/v1/individuals/{id:path}",
    dependencies=[Security(authorize, scopes=[IDENTIFY])],
    responses=openapi.problem_responses(404),
)
async def individual(id: str, page: Annotated[IndividualPageQuery, Query()], service: SelectedModel) -> IndividualPage:
    """Return one individual and its gallery photographs."""
    id = resolve_name(id, page.individual, parameter="individual")
    everything = (await service.recognizer.snapshot()).individuals.get(id)
    if everything is None:
        raise RefusalError(404, f"{id!r} is not an individual of this gallery. See /v1/individuals")
    path, query = individual_path(id)
    images, following = _paginate(everything, page, service, path, **query)
    return IndividualPage(id=id, total=len(everything), images=images, next=following)


def _paginate(
    names: Sequence[str], page: PageQuery, service: ModelService, path: str, **query: str
) -> tuple[list[str], str | None]:
    """Return the names of this page and the address of the next one."""
    start = bisect_right(names, page.after) if page.after else 0
    part = list(names[start : start + page.limit])
    last = start + page.limit >= len(names)
    return part, None if last else service.address(path, **query, after=part[-1], limit=page.limit)


@router.get(
    "/v1/images/{image:path}",
    dependencies=[Security(authorize, scopes=[IDENTIFY])],
    response_class=Response,
    responses={**openapi.JPEG_RESPONSE, **openapi.problem_responses(404)},
)
async def thumbnail(image: str, query: Annotated[ImageQuery, Query()], service: SelectedModel) -> Response:
    """Return the thumbnail of a gallery photograph."""
    image = resolve_name(image, query.image, parameter="image")
    snapshot, gallery = await service.recognizer.snapshot(), service.live_gallery
    if image in snapshot.enrolled and gallery.store:
        data = await asyncio.to_thread(gallery.store.thumbnail, image)
    elif image in snapshot.images:
        data = service.bundle.contents.thumbnails.get(gallery.rows[image])
    else:
        raise RefusalError(404, f"{image!r} is not a photograph of this gallery. See /v1/individuals")
    if data is None:
        raise RefusalError(
            404, f"this bundle has no thumbnail of {image!r}. Make it with `bundle: {{thumbnails: true}}`"
        )
    return Response(data, media_type="image/jpeg", headers={"Cache-Control": "no-store"})


@router.get(
    "/v1/examples", dependencies=[Security(authorize, scopes=[IDENTIFY])], responses=openapi.problem_responses(404)
)
async def examples(query: ModelParameter, service: SelectedModel) -> Examples:
    """List the example photographs of the bundle."""
    found = (await service.examples()).items()
    return Examples(
        examples=[
            Example(individual=one.individual, address=service.address(f"/v1/examples/{place}")) for place, one in found
        ]
    )


@router.get(
    "/v1/examples/{place}",
    dependencies=[Security(authorize, scopes=[IDENTIFY])],
    response_class=Response,
    responses={**openapi.JPEG_RESPONSE, **openapi.problem_responses(404)},
)
async def example(place: ExampleNumber, query: ModelParameter, service: SelectedModel) -> Response:
    """Return an example photograph."""
    found = await service.examples()
    if place not in found:
        raise RefusalError(404, f"there is no example {place}. See /v1/examples for the {len(found)} that exist")
    return Response(found[place].data, media_type="image/jpeg", headers={"Cache-Control": "no-store"})


@router.get("/healthz", dependencies=[Security(allow_anonymous)], responses=openapi.problem_responses(404, 503))
async def healthz(query: ModelParameter, service: SelectedModel) -> Health:
    """Report that the service is ready; it is not if an encoder or the database does not answer."""
    if reason := await service.recognizer.fault():
        raise RefusalError(503, f"{reason}. Retry; restart the service if this does not pass", {"Retry-After": "1"})
    return Health(model=service.bundle.id)
