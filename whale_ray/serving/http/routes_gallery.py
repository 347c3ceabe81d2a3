"""Routes that change the gallery: enrol, forget, restore a version.

A change is durable when it is answered.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Request, Security

from whale_ray.serving import query_parameters as parameters
from whale_ray.serving.auth.access_control import authorize
from whale_ray.serving.auth.api_keys import ENROL, IDENTIFY
from whale_ray.serving.gallery.enrolment_store import EnrolmentStore
from whale_ray.serving.gallery.transactions import Claim
from whale_ray.serving.gallery_schemas import (
    EnrolledImage,
    Enrolment,
    Forgotten,
    GalleryVersion,
    GalleryVersions,
    Restored,
)
from whale_ray.serving.http import openapi
from whale_ray.serving.http.model_service import ModelParameter, ModelService, SelectedModel
from whale_ray.serving.http.uploads import Upload, read_uploads, with_boxes, with_traits
from whale_ray.serving.problem_details import RefusalError
from whale_ray.serving.resource_names import check_new_name, resolve_name

_STATUS: dict[bool, Literal["enrolled", "already"]] = {True: "enrolled", False: "already"}
router = APIRouter()


@router.post(
    "/v1/individuals/{id:path}/images",
    dependencies=[Security(authorize, scopes=[ENROL])],
    openapi_extra=openapi.IMAGE_BODY,
    responses=openapi.problem_responses(403, 404, 408, 409, 413, 415, 422, 503),
)
async def enrol(id: str, request: Request, query: parameters.EnrolParameters, service: SelectedModel) -> Enrolment:
    """Add photographs to a new or existing individual, all or none.

    They are durable when the call is answered. Photographs that are already enrolled stay as they are. With `box` the
    animal in the box is enrolled: other boxes of the photograph may be enrolled under other individuals. `view` and
    `species` are kept with it; without them it is a candidate of every query.
    """
    require_store(service)
    traits = service.check_traits(query.view, query.species)
    id = resolve_name(id, query.individual, parameter="individual")
    async with service.upload_budget.receive_upload() as take:  # as of `identify`
        await check_name(id, service)
        uploads = await read_uploads(request, service.limits, take=take)
    uploads = with_traits(with_boxes(uploads, query.box, service.limits), traits)
    with service.admission.admit(len(uploads)):
        return await enrol_uploads(id, uploads, service)


async def enrol_uploads(
    individual: str, uploads: list[Upload], service: ModelService, *, claim: Claim | None = None
) -> Enrolment:
    """Enrol images under an individual and return them.

    Args:
        individual: Name of the individual.
        uploads: The images.
        service: The model.
        claim: Takes the image out of the queue where it waits.

    Raises:
        ImageError: If one of them cannot be used.
        EnrolledElsewhereError: If one of them is enrolled as another individual.
        NotWaitingError: If the image waits no longer.
    """
    store = require_store(service)
    pictures = await service.prepare_pictures(uploads)
    new = await asyncio.to_thread(store.enrol, individual, pictures, bundle=service.bundle.id, claim=claim)
    images = [
        EnrolledImage(filename=upload.filename, image=picture.name, status=_STATUS[is_new], box=picture.box)
        for upload, picture, is_new in zip(uploads, pictures, new, strict=True)
    ]
    return Enrolment(individual=individual, version=await asyncio.to_thread(store.version), images=images)


@router.delete(
    "/v1/individuals/{id:path}/images/{image:path}",
    dependencies=[Security(authorize, scopes=[ENROL])],
    responses=openapi.problem_responses(403, 404, 503),
)
async def forget_image(
    id: str,
    image: str,
    request: Request,
    query: parameters.IndividualImageParameters,
    service: SelectedModel,
) -> Forgotten:
    """Forget a photograph: an enrolled one is erased from every version, one of the bundle is hidden for good.

    It is hidden in every model.
    """
    store = require_store(service)
    id = resolve_name(id, query.individual, parameter="individual")
    image = resolve_name(image, query.image, parameter="image")
    galleries = [one.live_gallery for one in request.app.state.services.values()]
    hide = any(gallery.is_bundle_image(image, id) for gallery in galleries)
    names = {gallery.picture_name(image) for gallery in galleries}
    forget = partial(store.forget_image, hide=hide, aliases=names)
    count = 0 if "\0" in id + image else await asyncio.to_thread(forget, id, image)
    if not count:
        raise RefusalError(404, f"{id!r} has no photograph {image!r}. See /v1/individuals/{{id}} for its photographs")
    return Forgotten(photographs=count, version=await asyncio.to_thread(store.version))


@router.delete(
    "/v1/individuals/{id:path}",
    dependencies=[Security(authorize, scopes=[ENROL])],
    responses=openapi.problem_responses(403, 404, 503),
)
async def forget_individual(
    id: str, request: Request, query: parameters.IndividualParameters, service: SelectedModel
) -> Forgotten:
    """Forget an individual: enrolled photographs are erased from every version, those of the bundle hidden for good.

    They are hidden in every model.
    """
    store = require_store(service)
    id = resolve_name(id, query.individual, parameter="individual")
    own = any(id in one.live_gallery.names for one in request.app.state.services.values())
    count = 0 if "\0" in id else await asyncio.to_thread(store.forget_individual, id, hide=own)
    if not count:
        raise RefusalError(404, f"{id!r} is not an individual of this gallery. See /v1/individuals")
    return Forgotten(photographs=count, version=await asyncio.to_thread(store.version))


@router.get(
    "/v1/versions",
    dependencies=[Security(authorize, scopes=[IDENTIFY])],
    responses=openapi.problem_responses(403, 404, 503),
)
async def versions(query: ModelParameter, service: SelectedModel) -> GalleryVersions:
    """List every change of the gallery, the last one first."""
    store = require_store(service)
    changes = [asdict(change) for change in await asyncio.to_thread(store.versions)]
    found = [GalleryVersion(photographs=change.pop("pictures"), **change) for change in changes]
    return GalleryVersions(current=found[0].number if found else 0, versions=found)


@router.post(
    "/v1/versions/{number}/restore",
    dependencies=[Security(authorize, scopes=[ENROL])],
    responses=openapi.problem_responses(403, 404, 503),
)
async def restore(
    number: Annotated[int, Path(ge=0, le=10**9)], query: ModelParameter, service: SelectedModel
) -> Restored:
    """Restore the gallery of a version, without what was forgotten since. It becomes a new version."""
    return Restored(version=await asyncio.to_thread(require_store(service).restore, number))


def require_store(service: ModelService) -> EnrolmentStore:
    """Return the store of a model; raise RefusalError 403 if the service has none."""
    if service.live_gallery.store is None:
        raise RefusalError(
            403, "this service accepts no enrolments: it was started without a store. Set store to a database URL"
        )
    return service.live_gallery.store


async def check_name(name: str, service: ModelService) -> None:
    """Raise RefusalError 400 unless this is an individual of the gallery or a good name of a new one.

    Args:
        name: The name.
        service: The model.
    """
    if name == service.bundle.unknown_label:
        raise RefusalError(
            400, f"{name!r} is the label of unknown individuals and cannot be enrolled. Name an individual"
        )
    if name not in (await service.recognizer.snapshot()).individuals:
        check_new_name(name)
