"""One model behind the routes: bundle, live gallery, recognizer, limits and review queue."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import urlencode

import numpy as np
from fastapi import Depends, Query, Request

from whale_ray.data.image_io import Box
from whale_ray.errors import ImageError, StoreError
from whale_ray.inference.bundle_contents import ExamplePhoto
from whale_ray.inference.predictions import Identification
from whale_ray.inference.predictor import Bundle
from whale_ray.retrieval.search.gallery_index import normalize_rows
from whale_ray.serving.engine.recognizer import Recognizer
from whale_ray.serving.gallery.enrolled_pictures import picture_digest
from whale_ray.serving.gallery.review_queue import ReviewItem as KeptQuery
from whale_ray.serving.gallery.review_queue import ReviewQueue, needs_review
from whale_ray.serving.http.load_shedding import AdmissionController, UploadBudget
from whale_ray.serving.http.uploads import Limits, Upload
from whale_ray.serving.metrics import count
from whale_ray.serving.problem_details import RefusalError, refused_image
from whale_ray.serving.query_parameters import ModelQuery
from whale_ray.serving.resource_names import thumbnail_path
from whale_ray.serving.schemas import Identified, Unidentified

MAX_PENDING_REVIEWS = 8
_UPLOADS_PER_CALL = 4  # bodies that arrive at once, for each call that is answered at once
_UPLOAD_BYTES = 2**30  # of them together
_log = logging.getLogger(__name__)


class ModelService:
    """A bundle with its recognizer and the limits of its callers."""

    def __init__(
        self,
        bundle: Bundle,
        recognizer: Recognizer,
        *,
        limits: Limits,
        most_calls: int,
        review_queue: ReviewQueue | None = None,
        name: str = "",
    ) -> None:
        self.bundle, self.recognizer, self.limits, self.admission = (
            bundle,
            recognizer,
            limits,
            AdmissionController(most_calls),
        )
        self.upload_budget = UploadBudget(
            _UPLOADS_PER_CALL * most_calls, most_bytes=_UPLOAD_BYTES, seconds=limits.seconds
        )
        self._name = name
        self.on_answer: Callable[[bytes, Box | None, Identification], None] = lambda data, box, found: None
        self.live_gallery, self.review_queue = recognizer.live_gallery, review_queue
        self._keeping: set[asyncio.Task[None]] = set()

    async def answer(self, uploads: list[Upload], *, top: int) -> list[Identified | Unidentified]:
        """Return a result for each image.

        Args:
            uploads: Images of the call.
            top: Number of candidates per image.

        Raises:
            ImageError: If the only image cannot be used.
        """
        if len(uploads) == 1:
            return [await self._identify(uploads[0], top)]
        return list(await asyncio.gather(*(self._identify_or_problem(upload, top) for upload in uploads)))

    async def answer_encounter(self, uploads: list[Upload], *, top: int) -> list[Identified | Unidentified]:
        """Return one result for all usable images of an encounter and a problem for each other image.

        The mean of the L2-normalised embeddings is searched. With several images probabilities are null: they are
        calibrated on single images.

        Args:
            uploads: Images of one individual.
            top: Number of candidates.

        Raises:
            ImageError: The error of the first image, if no image can be used.
        """
        reading = (self.recognizer.embed(upload.data, box=upload.box) for upload in uploads)
        read = await asyncio.gather(*reading, return_exceptions=True)
        for one in read:
            if isinstance(one, BaseException) and not isinstance(one, ImageError):
                raise one
        used = [(upload, one) for upload, one in zip(uploads, read, strict=True) if isinstance(one, np.ndarray)]
        faults = [(upload, one) for upload, one in zip(uploads, read, strict=True) if isinstance(one, ImageError)]
        if not used:
            raise faults[0][1]
        mean = normalize_rows(np.sum([vector for _, vector in used], axis=0)[None])[0]
        found = await self.recognizer.rank(mean, top=top)
        for upload, _ in used:
            self._keep(upload, found)
        if len(used) > 1:
            found = _without_probabilities(found)
        whole = self._identified(None, found, views=len(used))
        return [whole, *(_problem_result(upload, error) for upload, error in faults)]

    async def _identify(self, upload: Upload, top: int) -> Identified:
        found = await self.recognizer.identify(upload.data, top=top, box=upload.box)
        self._keep(upload, found)
        self.on_answer(upload.data, upload.box, found)
        return self._identified(upload.filename, found, box=upload.box)

    async def _identify_or_problem(self, upload: Upload, top: int) -> Identified | Unidentified:
        try:
            return await self._identify(upload, top)
        except ImageError as error:
            return _problem_result(upload, error)

    def _identified(
        self, filename: str | None, found: Identification, *, box: Box | None = None, views: int = 1
    ) -> Identified:
        count("whale_ray_answers", decision=found.new_individual.decision)
        candidates = [
            {**vars(candidate), "thumbnail": self._thumbnail(candidate.image)} for candidate in found.candidates
        ]
        new = vars(found.new_individual)
        return Identified.model_validate(
            {"filename": filename, "box": box, "views": views, "new_individual": new, "candidates": candidates}
        )

    async def examples(self) -> dict[int, ExamplePhoto]:
        """Return number → example image of the bundle, without examples of forgotten individuals or images."""
        snapshot, gallery = await self.recognizer.snapshot(), self.live_gallery
        return {
            place: one
            for place, one in enumerate(self.bundle.contents.examples)
            if (one.individual not in gallery.names or one.individual in snapshot.individuals)
            and (one.image not in gallery.rows or one.image in snapshot.images)
        }

    def _thumbnail(self, image: str) -> str | None:
        row = self.live_gallery.rows.get(image)
        has_none = row is not None and row not in self.bundle.contents.thumbnails
        if has_none:
            return None
        path, query = thumbnail_path(image)
        return self.address(path, **query)

    def address(self, path: str, **query: object) -> str:
        """Return the URL path of a resource of this model.

        Args:
            path: Path of the resource.
            query: Query parameters; `model` is added if this is not the default model.
        """
        query |= {"model": self._name} if self._name else {}
        return f"{path}?{urlencode(query)}" if query else path

    def _keep(self, upload: Upload, found: Identification) -> None:
        """Add the image to the review queue in the background if the individual seems new."""
        nearest = found.candidates[0] if found.candidates else None
        distance = nearest.distance if nearest else 2.0
        seems = found.new_individual.decision == "new" or needs_review(distance, self.bundle.new_distance)
        if self.review_queue is None or not seems:
            return
        if len(self._keeping) >= MAX_PENDING_REVIEWS:
            _log.warning(
                "a photograph of a probably new animal was not queued for review: %d are being written",
                MAX_PENDING_REVIEWS,
            )
            return
        query = KeptQuery(
            digest=picture_digest(upload.data, upload.box),
            at=datetime.now(UTC),
            bundle=self.bundle.id,
            nearest=nearest.individual if nearest else "",
            distance=distance,
            decision=found.new_individual.decision,
            box=upload.box,
        )
        task = asyncio.create_task(self._write(self.review_queue, query, upload.data))
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def _write(self, kept: ReviewQueue, query: KeptQuery, data: bytes) -> None:
        decoded = await self.recognizer.decoders.decode(data, box=query.box, thumbnail=True)
        try:
            await asyncio.to_thread(kept.keep, query, data=data, thumbnail=decoded.thumbnail)
        except StoreError:
            _log.warning("a photograph of a probably new animal could not be queued for review", exc_info=True)


def _problem_result(upload: Upload, error: ImageError) -> Unidentified:
    return Unidentified(filename=upload.filename, box=upload.box, problem=refused_image(error).problem)


def _without_probabilities(found: Identification) -> Identification:
    candidates = tuple(replace(candidate, probability=None) for candidate in found.candidates)
    return Identification(replace(found.new_individual, probability=None), candidates)


def model_name(request: Request, services: Mapping[str, ModelService]) -> str:
    """Return the model that the call chooses with `?model=`, or the default one.

    Args:
        request: The call.
        services: Name → model; the first one is the default.
    """
    return request.query_params.get("model") or next(iter(services))


async def select_model(request: Request) -> ModelService:  # were it no coroutine, each call would wait for a thread
    """Return the model that the call chooses; raise RefusalError 404 for an unknown name."""
    services: Mapping[str, ModelService] = request.app.state.services
    name = model_name(request, services)
    if name not in services:
        raise RefusalError(
            404, f"there is no model {name!r} here. Choose one of {', '.join(services)}, or leave it out"
        )
    return services[name]


SelectedModel = Annotated[ModelService, Depends(select_model)]
ModelParameter = Annotated[ModelQuery, Query()]
