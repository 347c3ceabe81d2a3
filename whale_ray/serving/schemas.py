"""Schemas of the HTTP API: query parameters and answers."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from whale_ray.inference.predictions import MOST_CANDIDATES
from whale_ray.serving.problem_details import Problem

MAX_PER_PAGE = 1000
DISTANCE_DECIMALS = 7  # of a distance, as it is written


class ModelQuery(BaseModel):
    """Model that answers, if there are several."""

    model_config = ConfigDict(extra="forbid")
    model: str = Field("", description="A name from `/v1/model`; without it, the default answers.")


class IdentifyQuery(ModelQuery):
    """Query parameters of `/v1/identify`."""

    top: int = Field(5, ge=1, le=MOST_CANDIDATES, description="How many individuals each photograph gets.")
    encounter: bool = Field(False, description="The photographs are views of one animal and get one answer together.")


class PageQuery(ModelQuery):
    """Part of a list in the order of the names."""

    after: str = Field("", description="The last name of the page before.")
    limit: int = Field(100, ge=1, le=MAX_PER_PAGE, description="How many names a page holds.")


class ConfirmQuery(ModelQuery):
    """Individual that a person saw in a photograph."""

    individual: str = Field(description="An individual of the gallery, or a new one.")


Distance = Annotated[float, AfterValidator(lambda distance: round(distance, DISTANCE_DECIMALS))]
"""A cosine distance as it is written in an answer; what is decided is decided by all of its digits."""


Probability = Annotated[float, AfterValidator(lambda probability: round(probability, 4))]


class NewIndividual(BaseModel):
    """Whether the animal is probably not in the gallery."""

    probability: Probability | None = Field(
        description="That no individual of the gallery is shown, where new ones are as frequent as in validation; "
        "null where validation held too few to learn it from."
    )
    decision: Literal["new", "known"]


class Candidate(BaseModel):
    """One individual that the photograph may show."""

    rank: int = Field(description="From 1, in the order of the bundle's vote.")
    individual: str
    distance: Distance = Field(description="The smallest cosine distance to a photograph of it, 0 to 2.")
    probability: Probability | None = Field(
        description="That it is this individual; null where validation held too few answers to learn it from."
    )
    image: str = Field(description="The gallery photograph of that distance.")
    thumbnail: str | None = Field(description="The address of its thumbnail; null where the bundle has none.")


class Identified(BaseModel):
    """Answer for one photograph; with `encounter`, for all usable ones and without a filename."""

    filename: str | None
    views: int = Field(1, description="How many photographs are behind this answer.")
    new_individual: NewIndividual
    candidates: list[Candidate]


class Unidentified(BaseModel):
    """A photograph of a call with several that could not be used."""

    filename: str | None
    problem: Problem


class Answer(BaseModel):
    """Answer of `/v1/identify`: one result per photograph, in the order of the request."""

    model: str = Field(description="The id of the bundle that answered.")
    results: list[Identified | Unidentified]


class Agreement(BaseModel):
    """How often a shadow bundle gives the same first answer as the default bundle."""

    id: str | None = Field(description="The shadow's id; null where it does not answer.")
    compared: int
    agreed: int
    failed: int = Field(description="Photographs for which the shadow had no answer.")
    agreement: float | None = Field(description="agreed / compared.")
    left_out: int = Field(description="Photographs that the shadow was too slow for, in this process.")


class ModelCard(BaseModel):
    """The answering model and its scores."""

    id: str
    encoder: str
    embedding_size: int
    individuals: int = Field(description="Named individuals in the gallery.")
    images: int = Field(description="Photographs in the gallery.")
    threshold: float | None = Field(
        description="Below this cosine, or what `retrieval` ranks by in its place, an animal is taken for new."
    )
    new_distance: Distance | None = Field(
        description="The same as a distance: above it, an animal is taken for new. Null where cosines do not rank."
    )
    retrieval: dict[str, Any]
    scores: dict[str, Any] = Field(description="Measured on validation photographs, with their intervals.")
    data_fingerprint: str
    runtime: str = Field(description="What runs the encoder here: torch, or what was measured to be faster.")
    default: str = Field(description="The name of the model that answers where a call chooses none.")
    models: dict[str, str] = Field(description="Name → id of the models that `?model=` chooses from.")
    shadow: Agreement | None


class IndividualSummary(BaseModel):
    """An individual and its number of gallery photographs."""

    id: str
    images: int


class IndividualsPage(BaseModel):
    """Part of the list of individuals, in the order of the names; `next` leads to the following part."""

    total: int
    individuals: list[IndividualSummary]
    next: str | None


class IndividualPage(BaseModel):
    """An individual and part of its gallery photographs; `next` leads to the following part."""

    id: str
    total: int
    images: list[str]
    next: str | None


class Example(BaseModel):
    """A photograph of the bundle to try."""

    individual: str
    address: str


class Examples(BaseModel):
    """The example photographs of the bundle."""

    examples: list[Example]


class EnrolledImage(BaseModel):
    """A photograph that is in the gallery."""

    filename: str | None
    image: str = Field(description="What it is called here; see `/v1/images/{image}`.")
    status: Literal["enrolled", "already"]


class Enrolment(BaseModel):
    """The enrolled photographs in the order of the request, durable and visible to every later call."""

    individual: str
    version: int = Field(description="Of the gallery; see `/v1/versions`.")
    images: list[EnrolledImage]


class Forgotten(BaseModel):
    """What was forgotten: erased from every version or, in the bundle's own gallery, hidden for good."""

    photographs: int
    version: int


class GalleryVersion(BaseModel):
    """A change of the gallery."""

    number: int
    at: datetime
    kind: Literal["enrol", "forget", "restore"]
    photographs: int = Field(description="How many it added, removed or hid.")


class GalleryVersions(BaseModel):
    """Every change, the last one first. Version 0 is the bundle's own gallery."""

    current: int
    versions: list[GalleryVersion]


class Restored(BaseModel):
    """Version of the gallery after a restore; unchanged if nothing was different."""

    version: int


class KeptQuery(BaseModel):
    """A queried photograph of a new or nearly new animal that waits for review."""

    id: str
    at: datetime
    model: str
    nearest: str = Field(description="The individual that it is nearest to.")
    distance: Distance
    decision: Literal["new", "known"]
    thumbnail: str = Field(description="The address of a small JPEG.")


class KeptQueriesPage(BaseModel):
    """Part of the photographs that wait for review, the last one first; `next` leads to the following part."""

    total: int
    queries: list[KeptQuery]
    next: str | None


class Health(BaseModel):
    """The service is ready."""

    status: Literal["ok"] = "ok"
    model: str
