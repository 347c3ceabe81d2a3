"""The retrieval setting: the knobs that turn embeddings into ranked individuals, and every combination of them.

Knows the names of votes and views. Knows no vectors.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from whale_ray.errors import InputError
from whale_ray.retrieval.search.voting import VOTES, check_vote
from whale_ray.retrieval.search.whitening import WHITENINGS

FLIPS = ("none", "average")
RERANKS = ("none", "k_reciprocal")


@dataclass(frozen=True)
class View:
    """What a setting makes of an encoder's vectors before they are searched."""

    flip: str = "none"
    whiten: str = "none"
    whitened_size: int | None = None


@dataclass(frozen=True)
class Rerank:
    """How to re-rank (`reciprocal`). k1: how many nearest photographs may be mutual; k2: over how many of them, the own
    included, an encoding is averaged; weight: lambda, the share of the cosine in the score, above 0.
    """

    k1: int = 20
    k2: int = 6
    weight: float = 0.3


@dataclass(frozen=True)
class Manner:
    """How the gallery is searched: with how many of its vectors a query is expanded and each of its own vectors
    augmented, how what is found is re-ranked, and how much a classifier then has to say. Where it is `plain`, scores
    are cosines.
    """

    expand_query: int = 0
    augment_gallery: int = 0
    rerank: Rerank | None = None
    classifier_weight: float = 0.0

    @property
    def plain(self) -> bool:
        """Whether vectors are searched as they are."""
        return self == Manner()


@dataclass(frozen=True)
class RetrievalSetting:
    """How embeddings become ranked individuals; never retrained.

    neighbours: k, None where the vote has none. temperature: of the softmax vote. flip: `average` adds the mirrored
    view to the plain one. whiten: `pca` or `learned` maps the vectors first, to `whitened_size` dimensions (None: all).
    expand_query, augment_gallery: how many near gallery vectors are added to a query, to each gallery vector.
    rerank: `k_reciprocal` has rerank_k1, rerank_k2 and rerank_lambda; None where nothing is re-ranked.
    classifier_weight: the share of the cosine to the individual's proxy, learned by the loss, in each image's score.
    These two score images, and the vote `centroid` looks at none.

    Raises: InputError where these do not go together.
    """

    vote: str = "nearest"
    neighbours: int | None = None
    temperature: float = 0.05
    flip: str = "none"
    whiten: str = "none"
    whitened_size: int | None = None
    expand_query: int = 0
    augment_gallery: int = 0
    rerank: str = "none"
    rerank_k1: int | None = None
    rerank_k2: int | None = None
    rerank_lambda: float | None = None
    classifier_weight: float = 0.0

    def __post_init__(self) -> None:
        check_vote(self.vote, neighbours=self.neighbours, temperature=self.temperature)
        if self.flip not in FLIPS:
            raise InputError(f"flip is one of {', '.join(FLIPS)}, but got {self.flip!r}. Name one of them")
        if self.whiten not in WHITENINGS:
            raise InputError(f"whiten is one of {', '.join(WHITENINGS)}, but got {self.whiten!r}. Name one of them")
        for name in ("expand_query", "augment_gallery"):
            if getattr(self, name) < 0:
                raise InputError(f"`{name} >= 0` must hold, but got {getattr(self, name)}. Give 0 for none")
        if not 0 <= self.classifier_weight <= 1:
            raise InputError(
                f"`0 <= classifier_weight <= 1` must hold, but got {self.classifier_weight}. Give 0 for no classifier"
            )
        if self.classifier_weight and VOTES[self.vote].by_centroid:
            raise InputError(
                f"classifier_weight {self.classifier_weight} scores images, but the vote {self.vote} looks at none. "
                "Take another vote"
            )
        self._check_rerank()

    def _check_rerank(self) -> None:
        if self.rerank not in RERANKS:
            raise InputError(f"rerank is one of {', '.join(RERANKS)}, but got {self.rerank!r}. Name one of them")
        if self.rerank == "none":
            return
        if VOTES[self.vote].by_centroid:
            raise InputError(
                f"rerank {self.rerank} scores images, but the vote {self.vote} looks at none. Take another vote"
            )
        k1, k2, weight = self.rerank_k1, self.rerank_k2, self.rerank_lambda
        if k1 is None or k2 is None or weight is None or k1 < 1 or k2 < 1 or not 0 < weight <= 1:
            raise InputError(
                "`rerank_k1 >= 1`, `rerank_k2 >= 1` and `0 < rerank_lambda <= 1` must hold for rerank k_reciprocal, "
                f"but got {k1}, {k2} and {weight}. Give 20, 6 and 0.3 or so"
            )

    @property
    def view(self) -> View:
        """What is searched."""
        return View(self.flip, self.whiten, self.whitened_size)

    @property
    def manner(self) -> Manner:
        """How it is searched."""
        rerank = None
        if self.rerank_k1 and self.rerank_k2 and self.rerank_lambda:
            rerank = Rerank(self.rerank_k1, self.rerank_k2, self.rerank_lambda)
        return Manner(self.expand_query, self.augment_gallery, rerank, self.classifier_weight)

    def as_it_comes(self) -> RetrievalSetting:
        """The same vote on the encoder's own vectors: nothing whitened, expanded, re-ranked or mixed."""
        return RetrievalSetting(self.vote, self.neighbours, self.temperature, self.flip)


SETTING_FIELDS = tuple(field.name for field in fields(RetrievalSetting))


def setting_of(result: Mapping[str, Any]) -> RetrievalSetting:
    """The setting that a trial's result says was chosen."""
    return RetrievalSetting(**{name: result[name] for name in SETTING_FIELDS if name in result})


def distinct_settings(
    *,
    vote: Sequence[str],
    neighbours: Sequence[int],
    temperature: Sequence[float],
    flip: Sequence[str],
    **others: Sequence[Any],
) -> list[RetrievalSetting]:
    """Every setting these values make, the first values first, none twice: each only where it counts.

    others: values of the other fields of RetrievalSetting; its default where one is missing.

    >>> settings = distinct_settings(vote=["nearest", "majority"], neighbours=[1, 3], temperature=[0.05], flip=["none"])
    >>> [(setting.vote, setting.neighbours) for setting in settings]
    [('nearest', None), ('majority', 1), ('majority', 3)]
    """
    given = {"vote": vote, "neighbours": neighbours, "temperature": temperature, "flip": flip, **others}
    every = (dict(zip(given, values, strict=True)) for values in itertools.product(*given.values()))
    return list(dict.fromkeys(RetrievalSetting(**_what_counts(one)) for one in every))


def without_classifier(settings: Iterable[RetrievalSetting]) -> list[RetrievalSetting]:
    """The same settings where there is no classifier to mix in, none twice."""
    return list(dict.fromkeys(replace(setting, classifier_weight=0.0) for setting in settings))


def _what_counts(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values less those that do nothing beside the others."""
    vote = VOTES.get(values["vote"], VOTES["nearest"])
    idle = [] if vote.counts_neighbours else ["neighbours"]
    idle += [] if vote.has_temperature else ["temperature"]
    idle += ["classifier_weight"] if vote.by_centroid else []
    idle += ["whitened_size"] if values.get("whiten", "none") == "none" else []
    if vote.by_centroid or values.get("rerank", "none") == "none":
        idle += ["rerank", "rerank_k1", "rerank_k2", "rerank_lambda"]
    return {name: value for name, value in values.items() if name not in idle}
