"""Schemas of the answers of the HTTP API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field
from pydantic.config import JsonDict

from whale_ray.data.image_io import Box
from whale_ray.serving.problem_details import Problem

DISTANCE_DECIMALS = 7  # of a distance, as it is written

Distance = Annotated[float, AfterValidator(lambda distance: round(distance, DISTANCE_DECIMALS))]
"""Cosine distance, rounded for the answer. Decisions use the value before rounding."""


Probability = Annotated[float, AfterValidator(lambda probability: round(probability, 4))]


class NewIndividual(BaseModel):
    """Probability and decision that the animal is not in the gallery."""

    probability: Probability | None = Field(
        description="Probability that the animal is not in the gallery, if new animals are as frequent as in "
        "validation; null without calibration."
    )
    decision: Literal["new", "known"]


_NOT_ASKED = -1.0  # instead of the confidence of a detector


def _remove_default(schema: JsonDict) -> None:
    schema.pop("default")


def _is_none(value: object) -> bool:
    return value is None


class MatchedPhotograph(BaseModel):
    """The gallery photograph of a candidate with the most matched points."""

    image: str
    thumbnail: str | None = Field(description="URL path of its thumbnail; null if the bundle has none.")
    lines: list[tuple[float, float, float, float]] = Field(
        description="x and y of each matched point in your photograph (its box) and x and y in this one, as shares of "
        "width and height, 0 to 1."
    )


class Candidate(BaseModel):
    """An individual that the photograph may show."""

    rank: int = Field(description="Place in the ranking of the bundle, from 1.")
    individual: str
    distance: Distance = Field(description="Smallest cosine distance to a gallery photograph of it, 0 to 2.")
    probability: Probability | None = Field(
        description="Probability that the photograph shows this individual; null without calibration."
    )
    image: str = Field(description="Gallery photograph at this distance.")
    thumbnail: str | None = Field(description="URL path of its thumbnail; null if the bundle has none.")
    matched_points: int | None = Field(
        None,
        description="Keypoints of your photograph that match one photograph of this individual in place and look; 0 if "
        "none do, or if its photographs are not among the ten with the most similar keypoints. Null for models without "
        "keypoint matching, and for encounters ranked without it; of several photographs that with most counts.",
    )
    matched: MatchedPhotograph | None = Field(
        None, description="That photograph. Left out without `lines=true` or without points.", exclude_if=_is_none
    )


class SearchedPool(BaseModel):
    """Part of the gallery that was searched."""

    view: str | None = Field(description="The only viewpoint, beside unknown ones; null: all viewpoints.")
    species: str | None = Field(description="The only species, beside unknown ones; null: all species.")
    images: int = Field(description="Number of its photographs.")
    individuals: int = Field(description="Number of its individuals.")


class WithBox(BaseModel):
    """Something in a photograph, or in a box of it."""

    box: Box | None = Field(
        None,
        description="Box in the photograph: x0, y0, x1, y1 in pixels. Left out for a whole photograph.",
        exclude_if=_is_none,
    )


class _Result(WithBox):
    detection: Probability | None = Field(
        _NOT_ASKED,
        description="Confidence of the detector in this box, or null if it found no animal and the whole photograph "
        "was used. Left out if the detector was not asked.",
        exclude_if=lambda confidence: confidence == _NOT_ASKED,
        json_schema_extra=_remove_default,
    )


class Identified(_Result):
    """Answer for one photograph; with `encounter`, for all usable ones and without a filename."""

    filename: str | None
    views: int = Field(1, description="Number of photographs behind this result.")
    new_individual: NewIndividual
    candidates: list[Candidate]
    pool: SearchedPool | None = Field(
        None,
        description="Part of the gallery that was searched. Left out by models without viewpoints and species.",
        exclude_if=_is_none,
    )


class Unidentified(_Result):
    """A photograph of a call with several that could not be used."""

    filename: str | None
    problem: Problem


class Answer(BaseModel):
    """Answer of `/v1/identify`: one result per photograph, in the order of the request."""

    model: str = Field(description="The id of the bundle that answered.")
    results: list[Identified | Unidentified]


class Agreement(BaseModel):
    """Agreement of a shadow bundle with the default bundle on the first candidate."""

    id: str | None = Field(description="Id of the shadow bundle; null if it does not answer.")
    compared: int
    agreed: int
    failed: int = Field(description="Photographs that the shadow failed to answer.")
    agreement: float | None = Field(description="Share of the compared photographs: agreed / compared.")
    left_out: int = Field(description="Photographs that this process did not compare because the shadow was busy.")


class DecisionByProbability(BaseModel):
    """The share of new animals that probabilities and decisions hold for."""

    rule: str = Field(description="`balanced` or `cost`, as `retrieval.decide` of the sweep.")
    assumed_share: float = Field(description="Share of new animals that is assumed, 0 to 1.")
    measured_share: float = Field(description="Share of new animals among the validation photographs.")


class ModelCard(BaseModel):
    """The answering model and its scores."""

    id: str
    encoder: str
    embedding_size: int
    individuals: int = Field(description="Named individuals in the gallery.")
    images: int = Field(description="Photographs in the gallery.")
    threshold: float | None = Field(
        description="Threshold of map@5, for submissions: cosine, or the score of `retrieval`. Without `decision`, an "
        "animal is decided as new if its first score is below."
    )
    new_distance: Distance | None = Field(
        description="The threshold as a cosine distance; null if the score is no cosine."
    )
    decision: DecisionByProbability | None = Field(
        description="An animal is decided as new if its probability of being new is at least one half; null if the "
        "threshold decides."
    )
    species_thresholds: dict[str, float] = Field(description="The threshold of species that have one of their own.")
    viewpoints: list[str] = Field(description="Viewpoints of the gallery, values of `view` of `/v1/identify`.")
    species: list[str] = Field(description="Species of the gallery, values of `species` of `/v1/identify`.")
    retrieval: dict[str, Any]
    scores: dict[str, Any] = Field(description="Scores on validation photographs, with 95 % intervals.")
    data_fingerprint: str
    runtime: str = Field(description="Runtime of the encoder, such as torch or onnxruntime.")
    default: str = Field(description="Name of the model that answers calls without `?model=`.")
    models: dict[str, str] = Field(description="Name → bundle id of every model; names are the values of `?model=`.")
    shadow: Agreement | None


class IndividualSummary(BaseModel):
    """An individual and its number of gallery photographs."""

    id: str
    images: int


class IndividualsPage(BaseModel):
    """A page of the individuals, sorted by name; `next` is the URL path of the following page."""

    total: int
    individuals: list[IndividualSummary]
    next: str | None


class IndividualPage(BaseModel):
    """An individual and a page of its gallery photographs; `next` is the URL path of the following page."""

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


class SessionCard(BaseModel):
    """The caller's key, its scopes, and what this service keeps."""

    key: str | None = Field(description="Name of the key; null if the service has no keys.")
    scopes: list[str] = Field(description="Scopes of the key; all scopes if the service has no keys.")
    enrolments: bool = Field(description="The service has a database of enrolments.")
    review_queue: bool = Field(description="The service keeps photographs for review (`keep_queries=on`).")


class Health(BaseModel):
    """The service is ready."""

    status: Literal["ok"] = "ok"
    model: str
