"""One model as the routes see it: a bundle with its gallery, its recogniser, and the limits that hold for callers.

Knows the contract and a recogniser; of the framework only how a route asks for it.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import Depends, Request

from whale_ray.errors import ImageError
from whale_ray.identify import Bundle, Identification
from whale_ray.serving.contract import Identified, Unidentified, refused_image
from whale_ray.serving.guard import Door
from whale_ray.serving.recogniser import Recogniser
from whale_ray.serving.uploads import Limits, Upload


class Service:
    """A bundle with its gallery, its recogniser, and the limits that hold for callers."""

    def __init__(self, bundle: Bundle, recogniser: Recogniser, *, limits: Limits, most_calls: int) -> None:
        self.bundle, self.recogniser, self.limits, self.door = bundle, recogniser, limits, Door(most_calls)
        self.catalogue = recogniser.catalogue

    async def identify(self, upload: Upload, top: int) -> Identified:
        """The answer for one photograph. Raises: ImageError where it cannot be used."""
        return _identified(upload, await self.recogniser.identify(upload.data, top=top))

    async def identify_or_say_why(self, upload: Upload, top: int) -> Identified | Unidentified:
        """The answer for one photograph of several, or its problem."""
        try:
            return await self.identify(upload, top)
        except ImageError as error:
            return Unidentified(filename=upload.filename, problem=refused_image(error).problem)


def _identified(upload: Upload, found: Identification) -> Identified:
    return Identified.model_validate({"filename": upload.filename, **asdict(found)})


def service_of(request: Request) -> Service:
    """The service that the application holds."""
    service: Service = request.app.state.service
    return service


Here = Annotated[Service, Depends(service_of)]
