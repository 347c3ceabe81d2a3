"""One model as the routes see it: a bundle with its gallery, its recogniser, and the limits that hold for callers.

Knows the contract and a recogniser; of the framework only how a route asks for it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, Request

from whale_ray.errors import ImageError, StoreError
from whale_ray.identify import Bundle, Identification
from whale_ray.serving.contract import Identified, Unidentified, refused_image
from whale_ray.serving.guard import Door
from whale_ray.serving.recogniser import Recogniser
from whale_ray.serving.review import KeptQueries, Query, seems_new
from whale_ray.serving.uploads import Limits, Upload

MOST_KEEPING = 8
_log = logging.getLogger(__name__)


class Service:
    """A bundle with its gallery, its recogniser, and the limits that hold for callers."""

    def __init__(
        self,
        bundle: Bundle,
        recogniser: Recogniser,
        *,
        limits: Limits,
        most_calls: int,
        kept: KeptQueries | None = None,
    ) -> None:
        self.bundle, self.recogniser, self.limits, self.door = bundle, recogniser, limits, Door(most_calls)
        self.catalogue, self.kept = recogniser.catalogue, kept
        self._keeping: set[asyncio.Task[None]] = set()

    async def identify(self, upload: Upload, top: int) -> Identified:
        """The answer for one photograph. Raises: ImageError where it cannot be used."""
        found = await self.recogniser.identify(upload.data, top=top)
        self._keep(upload.data, found)
        return _identified(upload, found)

    async def identify_or_say_why(self, upload: Upload, top: int) -> Identified | Unidentified:
        """The answer for one photograph of several, or its problem."""
        try:
            return await self.identify(upload, top)
        except ImageError as error:
            return Unidentified(filename=upload.filename, problem=refused_image(error).problem)

    def _keep(self, data: bytes, found: Identification) -> None:
        """Has the photograph kept for a person where the animal seems new; the answer does not wait for it."""
        nearest = found.candidates[0] if found.candidates else None
        distance = nearest.distance if nearest else 2.0
        if self.kept is None or not seems_new(distance, self.bundle.new_distance):
            return
        if len(self._keeping) >= MOST_KEEPING:
            _log.warning("a photograph that seems new was not kept: %d are being kept already", MOST_KEEPING)
            return
        query = Query(
            digest=hashlib.sha256(data).hexdigest(),
            at=datetime.now(UTC),
            bundle=self.bundle.id,
            nearest=nearest.individual if nearest else "",
            distance=distance,
            decision=found.new_individual.decision,
        )
        task = asyncio.create_task(self._write(self.kept, query, data))
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def _write(self, kept: KeptQueries, query: Query, data: bytes) -> None:
        decoded = await self.recogniser.decoders.decode(data, thumbnail=True)
        try:
            await asyncio.to_thread(kept.keep, query, data=data, thumbnail=decoded.thumbnail)
        except StoreError:
            _log.warning("a photograph that seems new could not be kept", exc_info=True)


def _identified(upload: Upload, found: Identification) -> Identified:
    return Identified.model_validate({"filename": upload.filename, **asdict(found)})


def service_of(request: Request) -> Service:
    """The service that the application holds."""
    service: Service = request.app.state.service
    return service


Here = Annotated[Service, Depends(service_of)]
