"""Routes of proposed enrolments: a key with the scope `propose` proposes, another key with `enrol` decides.

A proposal is in no gallery until it is approved.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response, Security

from whale_ray.errors import NotWaitingError
from whale_ray.serving import query_parameters as parameters
from whale_ray.serving.auth.access_control import authorize
from whale_ray.serving.auth.api_keys import ENROL, PROPOSE
from whale_ray.serving.gallery.proposals import Proposal, Proposals, ProposedPicture
from whale_ray.serving.gallery_schemas import Enrolment, ProposalsPage, Proposed, ProposedEnrolment
from whale_ray.serving.http import openapi
from whale_ray.serving.http.model_service import ModelParameter, ModelService, SelectedModel
from whale_ray.serving.http.routes_gallery import check_name, enrol_uploads, require_store
from whale_ray.serving.http.uploads import Upload, read_uploads, with_boxes, with_traits
from whale_ray.serving.problem_details import RefusalError
from whale_ray.serving.resource_names import resolve_name

_Number = Annotated[int, Path(ge=0, le=10**9)]
router = APIRouter()


@router.post(
    "/v1/individuals/{id:path}/proposals",
    dependencies=[Security(authorize, scopes=[PROPOSE])],
    openapi_extra=openapi.IMAGE_BODY,
    responses=openapi.problem_responses(403, 404, 408, 413, 415, 422, 503),
)
async def propose(id: str, request: Request, query: parameters.EnrolParameters, service: SelectedModel) -> Proposed:
    """Propose photographs for a new or existing individual, all or none.

    They match nothing until a person with another key approves them. A photograph that waits already is not added
    again.
    """
    proposals, key = Proposals(require_store(service)), _key_name(request)
    traits = service.check_traits(query.view, query.species)
    id = resolve_name(id, query.individual, parameter="individual")
    async with service.upload_budget.receive_upload() as take:
        await check_name(id, service)
        uploads = await read_uploads(request, service.limits, take=take)
    uploads = with_traits(with_boxes(uploads, query.box, service.limits), traits)
    with service.admission.admit(len(uploads)):
        pictures = await service.prepare_pictures(uploads)
    numbers = await asyncio.to_thread(partial(proposals.propose, by=key), id, pictures)
    return Proposed(individual=id, proposals=numbers)


@router.get(
    "/v1/proposals",
    dependencies=[Security(authorize, scopes=[ENROL])],
    responses=openapi.problem_responses(403, 404, 503),
)
async def listed(page: parameters.ProposalsParameters, service: SelectedModel) -> ProposalsPage:
    """List proposals, the last one first: those that wait, or those that were decided, with key and time."""
    found = await asyncio.to_thread(Proposals(require_store(service)).list, page.state)
    rest = [one for one in found if not page.after or one.number < page.after]
    part = rest[: page.limit]
    query = {"state": page.state, "limit": page.limit}
    address = service.address("/v1/proposals", after=part[-1].number, **query) if len(rest) > page.limit else None
    return ProposalsPage(total=len(found), proposals=[_written(one) for one in part], next=address)


@router.get(
    "/v1/proposals/{number}/thumbnail",
    dependencies=[Security(authorize, scopes=[ENROL])],
    response_class=Response,
    responses={**openapi.JPEG_RESPONSE, **openapi.problem_responses(403, 404, 503)},
)
async def thumbnail(number: _Number, query: ModelParameter, service: SelectedModel) -> Response:
    """Return the thumbnail of a proposal that waits."""
    found = await _waiting(number, service)
    return Response(found.thumbnail, media_type="image/jpeg", headers={"Cache-Control": "no-store"})


@router.post(
    "/v1/proposals/{number}/approve",
    dependencies=[Security(authorize, scopes=[ENROL])],
    responses=openapi.problem_responses(403, 404, 409, 422, 503),
)
async def approve(number: _Number, request: Request, query: ModelParameter, service: SelectedModel) -> Enrolment:
    """Enrol the photograph of a proposal. The key that proposed it may not approve it."""
    found = await _waiting(number, service)
    proposal, key = found.proposal, _key_name(request)
    if proposal.proposed_by == key:
        raise RefusalError(403, f"a second person approves, but {key!r} proposed this one. Use another key")
    await check_name(proposal.individual, service)
    traits = service.bundle.gallery.known_traits(proposal.traits)
    upload = Upload(None, found.data, proposal.box, traits)
    claim = Proposals(require_store(service)).approval(number, by=key)
    try:
        return await enrol_uploads(proposal.individual, [upload], service, claim=claim)
    except NotWaitingError:
        raise _unknown(number) from None


@router.delete(
    "/v1/proposals/{number}",
    dependencies=[Security(authorize, scopes=[ENROL])],
    responses=openapi.problem_responses(403, 404, 503),
)
async def reject(number: _Number, request: Request, query: ModelParameter, service: SelectedModel) -> Proposed:
    """Reject a proposal and erase its photograph."""
    found = await _waiting(number, service)
    proposals, key = Proposals(require_store(service)), _key_name(request)
    if not await asyncio.to_thread(proposals.reject, number, by=key):
        raise _unknown(number)
    return Proposed(individual=found.proposal.individual, proposals=[number])


async def _waiting(number: int, service: ModelService) -> ProposedPicture:
    found = await asyncio.to_thread(Proposals(require_store(service)).waiting, number)
    if found is None:
        raise _unknown(number)
    return found


def _key_name(request: Request) -> str:
    name = request.scope.get("key_name")
    if not name:
        raise RefusalError(
            403, "proposals need API keys, since another key approves, but this service has none. Set keys to a file"
        )
    return str(name)


def _unknown(number: int) -> RefusalError:
    return RefusalError(404, f"no proposal {number} waits. See /v1/proposals")


def _written(one: Proposal) -> ProposedEnrolment:
    names = ("number", "individual", "state", "proposed_by", "proposed_at", "decided_by", "decided_at", "box")
    written = {name: getattr(one, name) for name in names}
    return ProposedEnrolment(**written, view=one.traits.viewpoint, species=one.traits.species)
