"""Schemas of the answers of the HTTP API about enrolment, versions of the gallery and the review queue."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from whale_ray.serving.schemas import Distance, WithBox


class EnrolledImage(WithBox):
    """A photograph, or the box of an animal in it, that is in the gallery."""

    filename: str | None
    image: str = Field(description="Name of the photograph in `/v1/images/{image}`.")
    status: Literal["enrolled", "already"]


class Enrolment(BaseModel):
    """The enrolled photographs in the order of the request, durable and visible to every later call."""

    individual: str
    version: int = Field(description="Version of the gallery; see `/v1/versions`.")
    images: list[EnrolledImage]


class Forgotten(BaseModel):
    """Number of forgotten photographs: erased from every version or, if the bundle has them, hidden permanently."""

    photographs: int
    version: int


class GalleryVersion(BaseModel):
    """A change of the gallery."""

    number: int
    at: datetime
    kind: Literal["enrol", "forget", "restore"]
    photographs: int = Field(description="Number of photographs added, erased or hidden.")


class GalleryVersions(BaseModel):
    """Every change, the last one first. Version 0 is the bundle's own gallery."""

    current: int
    versions: list[GalleryVersion]


class Restored(BaseModel):
    """Version of the gallery after a restore; unchanged if nothing was different."""

    version: int


class LatestAnswer(BaseModel):
    """Answer of the last search for a photograph that waits, with the bundle and the gallery of that moment."""

    model: str
    nearest: str
    distance: Distance
    decision: Literal["new", "known"]
    since: datetime | None = Field(
        None, description="First search with this nearest individual and decision; null if it was not recorded."
    )


class KeptQuery(WithBox):
    """A queried photograph of a new or nearly new animal that waits for review."""

    id: str
    at: datetime
    model: str
    nearest: str = Field(description="Nearest individual of the gallery.")
    distance: Distance
    decision: Literal["new", "known"]
    thumbnail: str = Field(description="URL path of a small JPEG.")
    view: str = Field("", description="Viewpoint of the animal; empty if unknown.")
    species: str = Field("", description="Species of the animal; empty if unknown.")
    latest: LatestAnswer | None = Field(None, description="Answer of the last search; null before the first one.")
    changed: bool = Field(False, description="The last search decides otherwise or names another nearest individual.")


class KeptQueriesPage(BaseModel):
    """A page of the photographs that wait for review, newest first; `next` is the URL path of the following page."""

    total: int
    pending: int = Field(0, description="Photographs that are still to be searched with this bundle and gallery.")
    queries: list[KeptQuery]
    next: str | None


class ProposedEnrolment(WithBox):
    """A photograph that is proposed for an individual; `decided_by` and `decided_at` are null while it waits."""

    number: int
    individual: str
    state: Literal["waiting", "approved", "rejected"]
    proposed_by: str = Field(description="Name of the key that proposed it.")
    proposed_at: datetime
    decided_by: str | None = Field(description="Name of the key that approved or rejected it.")
    decided_at: datetime | None
    view: str = Field("", description="Viewpoint of the animal; empty if unknown.")
    species: str = Field("", description="Species of the animal; empty if unknown.")


class Proposed(BaseModel):
    """Numbers of the proposals, in the order of the photographs of the request."""

    individual: str
    proposals: list[int]


class ProposalsPage(BaseModel):
    """A page of proposals, the last one first; `next` is the URL path of the following page."""

    total: int
    proposals: list[ProposedEnrolment]
    next: str | None
