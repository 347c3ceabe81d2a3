"""Request bodies: reads the images of a raw or multipart body within limits, without decoding them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import groupby

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message, Receive

from whale_ray.data.decoding.box_arguments import pair_boxes
from whale_ray.data.image_io import Box
from whale_ray.errors import InputError
from whale_ray.inference.detection.detected_animals import Animal, animals_of
from whale_ray.inference.predictions import UNKNOWN_TRAITS, AnimalTraits
from whale_ray.serving.engine.animal_finder import AnimalFinder
from whale_ray.serving.problem_details import RefusalError

_REMEDY = (
    "Send the photograph itself, as `curl --data-binary @fluke.jpg -H 'Content-Type: image/jpeg'`, or a form with "
    "field(s) `image`, as `curl -F image=@fluke.jpg`"
)


@dataclass(frozen=True)
class Limits:
    """Limits of one call: bytes and pixels per image; bytes, images and seconds per call."""

    image_bytes: int = 32 * 2**20
    image_pixels: int = 100_000_000
    call_bytes: int = 64 * 2**20
    images: int = 32
    seconds: float = 60.0


@dataclass(frozen=True)
class Upload:
    """One image as it was sent, with the animal in it.

    Attributes:
        filename: None for a raw body.
        data: The image file.
        box: Box of the animal; None for the whole image.
        traits: Viewpoint and species of the animal.
        animal: What the detector found; None if it was not asked.
    """

    filename: str | None
    data: bytes
    box: Box | None = None
    traits: AnimalTraits = UNKNOWN_TRAITS
    animal: Animal | None = None


async def read_uploads(request: Request, limits: Limits, *, take: Callable[[int], None]) -> list[Upload]:
    """Return the images of the request in their order, at least one.

    Args:
        request: The call.
        limits: Limits of the call.
        take: Called with the byte count of each part before it is kept; may raise RefusalError.

    Raises:
        RefusalError: 400 (malformed), 413 (too many bytes or images), 415 (neither image nor form), 422 (empty body).
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        most, read = limits.call_bytes, _read_form
    elif kind.startswith("image/") or kind in ("", "application/octet-stream"):
        most, read = limits.image_bytes, _read_body
    else:
        raise RefusalError(
            415,
            f"the body must be a photograph or a form with photographs, but its Content-Type is {kind!r}. {_REMEDY}",
        )
    _check_length(request, most)
    return await read(Request(request.scope, _limit_body(request, most, take)), limits)


def with_boxes(uploads: list[Upload], boxes: Sequence[Box], limits: Limits) -> list[Upload]:
    """Return the animals to identify: one for each box, or the uploads themselves without boxes.

    Args:
        uploads: The images of a call.
        boxes: Boxes in one image, or one box for each image, in their order.
        limits: Limits of the call.

    Raises:
        RefusalError: 400 if several images do not have a box each, 413 if there are too many boxes.
    """
    if len(boxes) > limits.images:
        raise RefusalError(413, f"a call has at most {limits.images} boxes, but this one has {len(boxes)}. Split it")
    try:
        return [replace(upload, box=box) for upload, box in pair_boxes(uploads, boxes)]
    except InputError as error:
        raise RefusalError(400, str(error)) from error


def with_traits(uploads: list[Upload], traits: AnimalTraits) -> list[Upload]:
    """Return the uploads with the viewpoint and species of their animals.

    Args:
        uploads: The images of a call.
        traits: Viewpoint and species of all of them.
    """
    return [replace(upload, traits=traits) for upload in uploads]


async def with_detections(uploads: list[Upload], finder: AnimalFinder | None, *, most: int) -> list[Upload]:
    """Return the animals that a detector finds in the images of a call without boxes, else the uploads themselves.

    Args:
        uploads: The images of a call.
        finder: Finds animals; None without a detector.
        most: Largest number of animals of an image.
    """
    if finder is None or any(upload.box for upload in uploads):
        return uploads
    found = await asyncio.gather(*(finder.find(upload.data) for upload in uploads))
    searched = []
    for upload, detections in zip(uploads, found, strict=True):
        if detections is None:
            searched.append(upload)
        else:
            animals = animals_of(detections[:most])
            searched += [replace(upload, box=animal.box, animal=animal) for animal in animals]
    return searched


def group_boxes(uploads: Sequence[Upload]) -> list[list[Upload]]:
    """Return the uploads grouped by image, in their order; a group holds the boxes of one image."""
    return [list(group) for _, group in groupby(uploads, key=lambda upload: id(upload.data))]


def _check_length(request: Request, most: int) -> None:
    declared = request.headers.get("content-length", "0")
    if not (declared.isascii() and declared.isdigit()):
        raise RefusalError(
            400, f"Content-Length must be a number of bytes, but is {declared!r}. Let the HTTP client set it"
        )
    if int(declared) > most:
        raise _too_many_bytes(most)


def _too_many_bytes(most: int) -> RefusalError:
    detail = f"the body may have at most {most:,} bytes, but has more. Send smaller photographs, or fewer in a call"
    return RefusalError(413, detail)


def _limit_body(request: Request, most: int, take: Callable[[int], None]) -> Receive:
    """Return ASGI's receive with a limit of `most` bytes."""
    left = most

    async def receive() -> Message:
        nonlocal left
        message = await request.receive()
        came = len(message.get("body", b""))
        left -= came
        if left < 0:
            raise _too_many_bytes(most)
        take(came)
        return message

    return receive


async def _read_body(request: Request, limits: Limits) -> list[Upload]:
    data = await request.body()
    if not data:
        raise RefusalError(422, f"the body must be a photograph, but is empty. {_REMEDY}")
    return [Upload(None, data)]


async def _read_form(request: Request, limits: Limits) -> list[Upload]:
    async with _parsed(request, limits) as form:
        fields = form.multi_items()
        if not fields:
            raise RefusalError(400, f"the form must have a field `image`, but is empty. {_REMEDY}")
        return [await _read_field(name, value) for name, value in fields]


@asynccontextmanager
async def _parsed(request: Request, limits: Limits) -> AsyncIterator[FormData]:
    try:
        form = await request.form(max_files=limits.images, max_fields=limits.images)
    except HTTPException as error:
        raise _malformed(error.detail, limits) from None
    except (ValueError, LookupError):
        raise _malformed("its character set cannot be read", limits) from None
    try:
        yield form
    finally:
        await form.close()


def _malformed(reason: str, limits: Limits) -> RefusalError:
    if reason.startswith("Too many"):
        return RefusalError(413, f"a call has at most {limits.images} photographs, but this one has more. Split it")
    return RefusalError(400, f"the body must be a well-formed form, but is not: {reason.rstrip('.')}. {_REMEDY}")


async def _read_field(name: str, value: UploadFile | str) -> Upload:
    if name != "image":
        raise RefusalError(400, f"the form's fields must be called `image`, but one is called {name!r}. {_REMEDY}")
    if isinstance(value, str):
        raise RefusalError(400, f"the field `image` must be a file, but is text. {_REMEDY}")
    filename = (value.filename or "").encode("utf-8", "replace").decode()
    return Upload(filename or None, await value.read())
