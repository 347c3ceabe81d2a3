"""Routes of the review queue: photographs of new or nearly new animals that wait for a person."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Response, Security

from whale_ray.errors import NotWaitingError
from whale_ray.serving import query_parameters as parameters
from whale_ray.serving.auth.access_control import authorize
from whale_ray.serving.auth.api_keys import ENROL
from whale_ray.serving.gallery.review import review_queue
from whale_ray.serving.gallery_schemas import Enrolment, Forgotten, KeptQueriesPage, KeptQuery
from whale_ray.serving.http import openapi
from whale_ray.serving.http.model_service import ModelParameter, ModelService, SelectedModel
from whale_ray.serving.http.routes_gallery import check_name, enrol_uploads, require_store
from whale_ray.serving.http.uploads import Upload
from whale_ray.serving.problem_details import RefusalError

router = APIRouter()


@router.get(
    "/v1/queries",
    dependencies=[Security(authorize, scopes=[ENROL])],
    responses=openapi.problem_responses(403, 404, 503),
)
async def queries(page: parameters.WaitingParameters, service: SelectedModel) -> KeptQueriesPage:
    """List photographs of new or nearly new animals that wait for review, the last one first.

    After a new bundle or a change of the gallery, the default model searches them again in the background. `changed`
    lists those whose answer is another one now; `pending` says how many are still to be searched.
    """
    queue = _require_queue(service)
    # Counted before the list is read: with 0 pending the list has every answer of that moment.
    pending = await service.backlog.pending() if service.backlog else 0
    waiting = await asyncio.to_thread(queue.waiting, changed=page.changed)
    start = next((place + 1 for place, query in enumerate(waiting) if query.digest == page.after), 0)
    part = waiting[start : start + page.limit]
    last = start + page.limit >= len(waiting)
    address = None if last else service.address("/v1/queries", **_page(page, after=part[-1].digest))
    kept = [_kept_query(query) for query in part]
    return KeptQueriesPage(total=len(waiting), pending=pending, queries=kept, next=address)


def _page(page: parameters.WaitingQuery, *, after: str) -> dict[str, object]:
    return {"after": after, "limit": page.limit, **({"changed": "true"} if page.changed else {})}


@router.get(
    "/v1/queries/{id}/thumbnail",
    dependencies=[Security(authorize, scopes=[ENROL])],
    response_class=Response,
    responses={**openapi.JPEG_RESPONSE, **openapi.problem_responses(403, 404, 503)},
)
async def query_thumbnail(id: str, query: ModelParameter, service: SelectedModel) -> Response:
    """Return the thumbnail of a photograph that waits for review."""
    data = await asyncio.to_thread(_require_queue(service).thumbnail, _digest(id))
    if data is None:
        raise _unknown_query(id)
    return Response(data, media_type="image/jpeg", headers={"Cache-Control": "no-store"})


@router.post(
    "/v1/queries/{id}/confirm",
    dependencies=[Security(authorize, scopes=[ENROL])],
    responses=openapi.problem_responses(403, 404, 409, 422, 503),
)
async def confirm(id: str, query: parameters.ConfirmParameters, service: SelectedModel) -> Enrolment:
    """Enrol a photograph that waits for review under an individual."""
    kept = _require_queue(service)
    await check_name(query.individual, service)
    found = await asyncio.to_thread(kept.photograph, _digest(id))
    if found is None:
        raise _unknown_query(id)
    data, box, traits = found
    upload = Upload(None, data, box, service.bundle.gallery.known_traits(traits))
    try:
        return await enrol_uploads(query.individual, [upload], service, claim=kept.removal(_digest(id)))
    except NotWaitingError:
        raise _unknown_query(id) from None


@router.delete(
    "/v1/queries/{id}",
    dependencies=[Security(authorize, scopes=[ENROL])],
    responses=openapi.problem_responses(403, 404, 503),
)
async def reject(id: str, query: ModelParameter, service: SelectedModel) -> Forgotten:
    """Erase a photograph that waits for review."""
    if not await asyncio.to_thread(_require_queue(service).drop, _digest(id)):
        raise _unknown_query(id)
    return Forgotten(photographs=1, version=await asyncio.to_thread(require_store(service).version))


def _require_queue(service: ModelService) -> review_queue.ReviewQueue:
    if service.review_queue is None:
        raise RefusalError(403, "this service keeps no photographs for review. Start it with keep_queries=on")
    return service.review_queue


def _digest(id: str) -> str:
    return id if id.isalnum() else ""


def _unknown_query(id: str) -> RefusalError:
    return RefusalError(404, f"no photograph {id!r} waits for review. See /v1/queries")


def _kept_query(query: review_queue.ReviewItem) -> KeptQuery:
    latest = query.latest and {**vars(query.latest), "model": query.latest.bundle}
    written = {name: getattr(query, name) for name in ("at", "nearest", "distance", "decision", "box")}
    written |= {"view": query.traits.viewpoint, "species": query.traits.species, "latest": latest}
    written |= {"id": query.digest, "model": query.bundle, "changed": query.is_changed}
    return KeptQuery(**written, thumbnail=f"/v1/queries/{query.digest}/thumbnail")
