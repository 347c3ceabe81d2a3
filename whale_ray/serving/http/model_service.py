"""One model behind the routes: bundle, live gallery, recognizer, limits and review queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated

import numpy as np
from fastapi import Depends, Query, Request

from whale_ray.data.formats.animal_rows import box_text
from whale_ray.errors import ImageError, InputError
from whale_ray.inference.bundle_contents import ExamplePhoto
from whale_ray.inference.predictions import AnimalTraits, Identification
from whale_ray.inference.predictor import Bundle
from whale_ray.retrieval.local.local_features import LocalFeatures
from whale_ray.retrieval.search.gallery_index import normalize_rows
from whale_ray.serving.engine.animal_finder import AnimalFinder
from whale_ray.serving.engine.backlog_searcher import BacklogSearcher
from whale_ray.serving.engine.decoder_messages import Decoded
from whale_ray.serving.engine.recognizer import Recognizer
from whale_ray.serving.engine.review_writer import ReviewWriter
from whale_ray.serving.gallery.enrolled_pictures import EnrolledPicture
from whale_ray.serving.gallery.review.review_queue import ReviewQueue
from whale_ray.serving.http.load_shedding import AdmissionController, UploadBudget
from whale_ray.serving.http.uploads import Limits, Upload, group_boxes, with_detections
from whale_ray.serving.identify_results import ResultWriter, problem_result
from whale_ray.serving.problem_details import RefusalError
from whale_ray.serving.query_parameters import ModelQuery
from whale_ray.serving.schemas import Identified, Unidentified

_UPLOADS_PER_CALL, _UPLOAD_BYTES = 4, 2**30  # bodies that arrive at once, for each call that is answered at once


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
        finder: AnimalFinder | None = None,
        name: str = "",
    ) -> None:
        self.bundle, self.recognizer, self.limits = bundle, recognizer, limits
        self.admission = AdmissionController(most_calls)
        self.upload_budget = UploadBudget(
            _UPLOADS_PER_CALL * most_calls, most_bytes=_UPLOAD_BYTES, seconds=limits.seconds
        )
        self._finder = finder
        self._results = ResultWriter(recognizer.live_gallery, name)
        self.address = self._results.address
        self.on_answer: Callable[[Upload, Identification], None] = lambda upload, found: None
        self.live_gallery, self.review_queue = recognizer.live_gallery, review_queue
        self._review_writer = self.backlog = None
        if review_queue and self.live_gallery.store:
            self._review_writer = ReviewWriter(review_queue, recognizer.decoders, bundle)
            self.backlog = BacklogSearcher(recognizer, review_queue, self.live_gallery.store)

    def check_traits(self, view: str, species: str) -> AnimalTraits:
        """Return viewpoint and species of a call's animals.

        Args:
            view: The viewpoint; "" for unknown.
            species: The species, likewise.

        Raises:
            RefusalError: 422, if the bundle's gallery lacks one of them.
        """
        traits = AnimalTraits(view, species)
        try:
            self.bundle.gallery.check_traits(traits)
        except InputError as error:
            raise RefusalError(422, str(error)) from error
        return traits

    async def answer(self, uploads: list[Upload], *, top: int, lines: bool = False) -> list[Identified | Unidentified]:
        """Return a result for each image.

        Args:
            uploads: Images of the call.
            top: Number of candidates per image.
            lines: Add the lines that join matched keypoints to the candidates.

        Raises:
            ImageError: If the only image cannot be used.
        """
        uploads = await with_detections(uploads, self._finder, most=self.limits.images)
        groups = await asyncio.gather(*(self._identify_boxes(group, top, lines) for group in group_boxes(uploads)))
        found = [one for group in groups for one in group]
        if len(found) == 1 and isinstance(found[0], ImageError):
            raise found[0]
        return [
            problem_result(upload, one) if isinstance(one, ImageError) else one
            for upload, one in zip(uploads, found, strict=True)
        ]

    async def answer_encounter(
        self, uploads: list[Upload], *, top: int, lines: bool = False
    ) -> list[Identified | Unidentified]:
        """Return one result for all usable images of an encounter and a problem for each other image.

        The mean of the L2-normalised embeddings is searched, and a bundle with local features averages the evidence of
        the images. With several images, decision and probabilities come from the bundle's calibration of encounters;
        probabilities are null in bundles without one.

        Args:
            uploads: Images of one individual.
            top: Number of candidates.
            lines: Add the lines that join matched keypoints of the only image to the candidates.

        Raises:
            ImageError: The error of the first image, if no image can be used.
        """
        uploads = await with_detections(uploads, self._finder, most=1)
        groups = await asyncio.gather(*(self._embed_boxes(group) for group in group_boxes(uploads)))
        pairs = list(zip(uploads, (one for group in groups for one in group), strict=True))
        used = [(upload, *one) for upload, one in pairs if not isinstance(one, ImageError)]
        faults = [(upload, one) for upload, one in pairs if isinstance(one, ImageError)]
        if not used:
            raise faults[0][1]
        mean = normalize_rows(np.sum([vector for _, vector, _ in used], axis=0)[None])[0]
        keypoints = tuple(one for _, _, one in used if one is not None)  # of all images, or none
        found = await self.recognizer.rank(
            mean,
            top=top,
            traits=used[0][0].traits,
            photographs=len(used),
            keypoints=keypoints[0] if len(used) == 1 and keypoints else keypoints or None,
            lines=lines,
        )
        await self._queue_encounter(used, found)
        whole = self._results.identified(found, views=len(used))
        return [whole, *(problem_result(upload, error) for upload, error in faults)]

    async def _queue_encounter(
        self, used: list[tuple[Upload, np.ndarray, LocalFeatures | None]], found: Identification
    ) -> None:
        """Queue the images of an encounter that seems new for review, each with its own answer."""
        if self._review_writer is None or not self._review_writer.wants(used[0][0].traits, found):
            return
        alone = [found]
        if len(used) > 1:
            rank = self.recognizer.rank
            alone = await asyncio.gather(
                *(rank(one, top=1, traits=up.traits, keypoints=kept) for up, one, kept in used)
            )
        for (upload, _, _), answer in zip(used, alone, strict=True):
            self._review_writer.add(upload.data, upload.box, upload.traits, answer)

    async def _identify_boxes(self, group: list[Upload], top: int, lines: bool) -> list[Identified | ImageError]:
        """Return a result, or the error, for each box of one image."""
        decoded = await self.recognizer.decode(group[0].data, [upload.box for upload in group])
        pairs = zip(group, decoded, strict=True)
        return list(await asyncio.gather(*(self._identify(upload, one, top, lines) for upload, one in pairs)))

    async def _identify(self, upload: Upload, decoded: Decoded, top: int, lines: bool) -> Identified | ImageError:
        if isinstance(decoded, ImageError):
            return decoded
        found = await self.recognizer.identify_decoded(decoded, top=top, traits=upload.traits, lines=lines)
        self._queue_for_review(upload, found)
        self.on_answer(upload, found)
        return self._results.identified(found, upload=upload)

    def _queue_for_review(self, upload: Upload, found: Identification) -> None:
        if self._review_writer is not None and self._review_writer.wants(upload.traits, found):
            self._review_writer.add(upload.data, upload.box, upload.traits, found)

    async def _embed_boxes(self, group: list[Upload]) -> list[tuple[np.ndarray, LocalFeatures | None] | ImageError]:
        """Return embedding (D,) and local features, or the error, of each box of one image."""

        async def embed(decoded: Decoded) -> tuple[np.ndarray, LocalFeatures | None] | ImageError:
            if isinstance(decoded, ImageError):
                return decoded
            return await self.recognizer.embed(decoded.array), decoded.keypoints

        decoded = await self.recognizer.decode(group[0].data, [upload.box for upload in group])
        return list(await asyncio.gather(*map(embed, decoded)))

    async def prepare_pictures(self, uploads: list[Upload]) -> list[EnrolledPicture]:
        """Return the pictures to enrol.

        Args:
            uploads: Images of the call.

        Raises:
            ImageError: If one of them cannot be used, with its name.
        """
        pictures: list[EnrolledPicture] = []
        for group in group_boxes(uploads):
            found = await self.recognizer.enrolments.prepare(group[0].data, [upload.box for upload in group])
            for upload, one in zip(group, found, strict=True):
                if isinstance(one, ImageError):
                    name = f" ({upload.filename})" if upload.filename else ""
                    place = f"photograph {len(pictures) + 1}" if upload.box is None else f"box {box_text(upload.box)}"
                    raise type(one)(f"{place}{name}: {one}. No photograph of this call was enrolled") from one
                pictures.append(replace(one, traits=upload.traits))
        return pictures

    async def examples(self) -> dict[int, ExamplePhoto]:
        """Return number → example image of the bundle, without examples of forgotten individuals or images."""
        snapshot, gallery = await self.recognizer.snapshot(), self.live_gallery
        return {
            place: one
            for place, one in enumerate(self.bundle.contents.examples)
            if (one.individual not in gallery.names or one.individual in snapshot.individuals)
            and (one.image not in gallery.rows or one.image in snapshot.images)
        }


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
