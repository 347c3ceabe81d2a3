"""The routes that change the gallery: enrol, forget, go back to an older version. What they answer lasts.

Knows FastAPI, the contract and a service; knows no SQL and no Ray.
"""

from __future__ import annotations

import asyncio
import hashlib
import unicodedata
from dataclasses import asdict

from fastapi import APIRouter, Request

from whale_ray.errors import ImageError
from whale_ray.serving import docs
from whale_ray.serving.contract import (
    EnrolledImage,
    Enrolment,
    Forgotten,
    GalleryVersion,
    GalleryVersions,
    RefusalError,
    Restored,
)
from whale_ray.serving.enrolment import EnrolmentStore, Picture
from whale_ray.serving.service import Here, Service
from whale_ray.serving.uploads import Upload, read_uploads

MOST_CHARACTERS = 100
_ENDINGS = {b"\xff\xd8": "jpg", b"\x89P": "png", b"RI": "webp", b"BM": "bmp", b"II": "tif", b"MM": "tif"}
router = APIRouter()


@router.post(
    "/v1/individuals/{id:path}/images",
    openapi_extra=docs.PHOTOGRAPHS,
    responses=docs.refusals(403, 408, 409, 413, 415, 422, 503),
)
async def enrol(id: str, request: Request, service: Here) -> Enrolment:
    """Adds photographs to an individual, which may be a new one: all of them or, where one cannot be used, none.

    When this is answered they are on the disk. Photographs that are there already are left as they are.
    """
    store = _store(service)
    with service.door:
        await _check_name(id, service)
        uploads = await read_uploads(request, service.limits)
        pictures = [await _picture(place, upload, service) for place, upload in enumerate(uploads)]
        new = await asyncio.to_thread(store.enrol, id, pictures, bundle=service.bundle.id)
    images = [
        EnrolledImage(filename=upload.filename, image=picture.name, status="enrolled" if is_new else "already")
        for upload, picture, is_new in zip(uploads, pictures, new, strict=True)
    ]
    return Enrolment(individual=id, version=await asyncio.to_thread(store.version), images=images)


@router.delete("/v1/individuals/{id:path}/images/{image:path}", responses=docs.refusals(403, 404, 503))
async def forget_image(id: str, image: str, service: Here) -> Forgotten:
    """Forgets a photograph: an enrolled one is erased from every version, one of the bundle's is hidden for good."""
    store, row = _store(service), service.catalogue.rows.get(image)
    hide = row is not None and service.bundle.individuals[row] == id
    count = 0 if "\0" in id + image else await asyncio.to_thread(store.forget_image, id, image, hide=hide)
    if not count:
        raise RefusalError(404, f"{id!r} has no photograph {image!r}. See /v1/individuals/{{id}} for those that it has")
    return Forgotten(photographs=count, version=await asyncio.to_thread(store.version))


@router.delete("/v1/individuals/{id:path}", responses=docs.refusals(403, 404, 503))
async def forget_individual(id: str, service: Here) -> Forgotten:
    """Forgets an individual: its enrolled photographs are erased from every version, the bundle's hidden for good."""
    store, own = _store(service), id in service.catalogue.names
    count = 0 if "\0" in id else await asyncio.to_thread(store.forget_individual, id, hide=own)
    if not count:
        raise RefusalError(404, f"{id!r} is no individual of this gallery. See /v1/individuals for who is in it")
    return Forgotten(photographs=count, version=await asyncio.to_thread(store.version))


@router.get("/v1/versions", responses=docs.refusals(403, 503))
async def versions(service: Here) -> GalleryVersions:
    """Every change of the gallery, the last one first."""
    store = _store(service)
    changes = [asdict(change) for change in await asyncio.to_thread(store.versions)]
    found = [GalleryVersion(photographs=change.pop("pictures"), **change) for change in changes]
    return GalleryVersions(current=found[0].number if found else 0, versions=found)


@router.post("/v1/versions/{number:int}/restore", responses=docs.refusals(403, 404, 503))
async def restore(number: int, service: Here) -> Restored:
    """Makes the gallery what it was at this version, less what was forgotten since. It becomes a new version."""
    return Restored(version=await asyncio.to_thread(_store(service).restore, number))


def _store(service: Service) -> EnrolmentStore:
    if service.catalogue.store is None:
        raise RefusalError(403, "this service takes no enrolments: it was started without a store. Start it with one")
    return service.catalogue.store


async def _check_name(name: str, service: Service) -> None:
    """Raises RefusalError 400 unless this is an individual of the gallery or a good name of a new one."""
    if name == service.bundle.unknown_label:
        raise RefusalError(400, f"{name!r} marks animals that nobody knows, and cannot be enrolled. Name an individual")
    if name in (await service.recogniser.standing()).individuals:
        return
    plain = name.isprintable() and "/" not in name and name == unicodedata.normalize("NFC", name.strip())
    if not (plain and 0 < len(name) <= MOST_CHARACTERS and name not in (".", "..")):
        raise RefusalError(
            400,
            f"a new individual has a name of 1 to {MOST_CHARACTERS} printable characters (NFC), without a slash and "
            f"without spaces around it, but got {name[:MOST_CHARACTERS]!r}. Choose such a name",
        )


async def _picture(place: int, upload: Upload, service: Service) -> Picture:
    recogniser = service.recogniser
    try:
        decoded = await recogniser.decoders.decode(upload.data, thumbnail=True)
    except ImageError as error:
        name = f" ({upload.filename})" if upload.filename else ""
        raise type(error)(f"photograph {place + 1}{name}: {error}. Nothing of this call was enrolled") from error
    digest = hashlib.sha256(upload.data).hexdigest()
    ending = _ENDINGS.get(upload.data[:2], "tif")
    vector = await recogniser.encoder.embed(decoded.array)
    return Picture(digest, f"enrolled-{digest[:32]}.{ending}", upload.data, decoded.thumbnail, vector)
