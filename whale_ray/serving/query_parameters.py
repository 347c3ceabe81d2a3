"""Schemas of the query parameters of the HTTP API."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from whale_ray.data.decoding.box_arguments import parse_box
from whale_ray.data.image_io import Box
from whale_ray.inference.predictions import MOST_CANDIDATES

MAX_PER_PAGE = 1000
_BOX_DESCRIPTION = "Box of an animal, `x0,y0,x1,y1` in pixels of the upright photograph"
_BOX_SCHEMA = {"type": "string", "example": "120,80,520,360"}


BoxParameter = Annotated[
    Box, BeforeValidator(lambda text: parse_box(text) if isinstance(text, str) else text), WithJsonSchema(_BOX_SCHEMA)
]


class ModelQuery(BaseModel):
    """Model that answers, if there are several."""

    model_config = ConfigDict(extra="forbid")
    model: str = Field("", description="Name of a model in `/v1/model`; default: the default model.")


_VIEW = Field("", description="Viewpoint of the animals, one of `viewpoints` of `/v1/model`; default: unknown.")
_SPECIES = Field("", description="Species of the animals, one of `species` of `/v1/model`; default: unknown.")


class IdentifyQuery(ModelQuery):
    """Query parameters of `/v1/identify`."""

    top: int = Field(5, ge=1, le=MOST_CANDIDATES, description="Number of candidates per photograph.")
    box: list[BoxParameter] = Field([], description=f"{_BOX_DESCRIPTION}; repeatable, a result each.")
    encounter: bool = Field(False, description="All photographs show one animal; they get one result.")
    lines: bool = Field(
        False, description="Add `matched` to the candidates: where keypoints of the two photographs match."
    )
    view: str = _VIEW
    species: str = _SPECIES


class PageQuery(ModelQuery):
    """Query parameters of lists that are sorted by name."""

    after: str = Field("", description="Last name of the previous page.")
    limit: int = Field(100, ge=1, le=MAX_PER_PAGE, description="Maximum number of names on the page.")


class WaitingQuery(PageQuery):
    """Query parameters of the review queue."""

    after: str = Field("", description="Last id of the previous page.")
    changed: bool = Field(
        False, description="Only photographs whose last search decides otherwise or names another nearest individual."
    )


class ProposalsQuery(ModelQuery):
    """Query parameters of the list of proposals."""

    state: Literal["waiting", "approved", "rejected"] = Field("waiting", description="State of the proposals.")
    after: int = Field(0, ge=0, description="Last number of the previous page; 0 for the first page.")
    limit: int = Field(100, ge=1, le=MAX_PER_PAGE, description="Maximum number of proposals on the page.")


_INDIVIDUAL = Field(None, description="Name of the individual, if the path has `-` for it: any name, such as `..`.")
_IMAGE = Field(None, description="Name of the photograph, if the path has `-` for it.")


class IndividualQuery(ModelQuery):
    """Individual that a path cannot name."""

    individual: str | None = _INDIVIDUAL


class EnrolQuery(IndividualQuery):
    """Query parameters of an enrolment."""

    box: list[BoxParameter] = Field(
        [], description=f"{_BOX_DESCRIPTION}; repeatable: boxes of one photograph, or one for each."
    )
    view: str = _VIEW
    species: str = _SPECIES


class IndividualPageQuery(PageQuery):
    """Page of an individual that a path may be unable to name."""

    individual: str | None = _INDIVIDUAL


class ImageQuery(ModelQuery):
    """Photograph that a path cannot name."""

    image: str | None = _IMAGE


class IndividualImageQuery(IndividualQuery):
    """Photograph and individual that a path cannot name."""

    image: str | None = _IMAGE


class ConfirmQuery(ModelQuery):
    """Individual that a person saw in a photograph."""

    individual: str = Field(description="Name of an individual of the gallery, or of a new one.")


ProposalsParameters = Annotated[ProposalsQuery, Query()]
WaitingParameters = Annotated[WaitingQuery, Query()]
PageParameters = Annotated[PageQuery, Query()]
IndividualParameters = Annotated[IndividualQuery, Query()]
IndividualImageParameters = Annotated[IndividualImageQuery, Query()]
EnrolParameters = Annotated[EnrolQuery, Query()]
ConfirmParameters = Annotated[ConfirmQuery, Query()]
