"""The route `POST /v1/identify`: the individuals that photographs may show."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response, Security

from whale_ray.serving.auth.access_control import authorize
from whale_ray.serving.auth.api_keys import IDENTIFY
from whale_ray.serving.http import openapi
from whale_ray.serving.http.content_negotiation import negotiate_response
from whale_ray.serving.http.model_service import SelectedModel
from whale_ray.serving.http.uploads import read_uploads, with_boxes, with_traits
from whale_ray.serving.query_parameters import IdentifyQuery
from whale_ray.serving.schemas import Answer

router = APIRouter()


async def refuse_if_full(service: SelectedModel) -> None:
    """Raise RefusalError 503 before the body is read if the service has no capacity for a call."""
    service.admission.check_capacity()


@router.post(
    "/v1/identify",
    dependencies=[Security(authorize, scopes=[IDENTIFY]), Depends(refuse_if_full)],
    openapi_extra=openapi.IMAGE_BODY,
    response_model=Answer,
    responses={**openapi.CSV_RESPONSE, **openapi.problem_responses(404, 408, 413, 415, 422, 503)},
)
async def identify(request: Request, query: Annotated[IdentifyQuery, Query()], service: SelectedModel) -> Response:
    """Return the individuals that each photograph may show, best first.

    In a call with several photographs each one has its own result or problem; for a single photograph the problem is
    the answer. With `box` each box has its own result: boxes of one photograph, or one box for each of several. With
    `encounter` all photographs show one animal and get one result. `view` and `species` of the animals limit the search
    in a model that knows viewpoints or species; `pool` of each result says which part of the gallery was searched. A
    model with keypoint matching also counts the matched points of each candidate; `lines` adds the lines that join
    them, to show why. The answer is JSON or, by `Accept`, CSV.
    """
    traits = service.check_traits(query.view, query.species)
    async with service.upload_budget.receive_upload() as take:  # a slow upload must not hold capacity
        uploads = await read_uploads(request, service.limits, take=take)
    uploads = with_traits(with_boxes(uploads, query.box, service.limits), traits)
    with service.admission.admit(len(uploads)):
        found = service.answer_encounter if query.encounter else service.answer
        results = await found(uploads, top=query.top, lines=query.lines)
    return negotiate_response(request.headers.get("accept", ""), Answer(model=service.bundle.id, results=results))
