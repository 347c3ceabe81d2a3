"""Retrieval settings: how embeddings become ranked individuals, and every distinct combination of options."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from whale_ray.errors import InputError
from whale_ray.retrieval.search.retrieval_options import effective_values, has_effect, option_choices
from whale_ray.retrieval.search.voting import check_vote

_CHOICES = ("flip", "whiten", "rerank", "side")
_LOCAL = re.compile(r"none|sift|orb|.+\.onnx|onnx\d{1,3}-[0-9a-f]{8}(\+[0-9a-f]{8})?")


@dataclass(frozen=True)
class VectorTransform:
    """Transformation of the embeddings before the search.

    Attributes:
        flip: `none`, or `average` of the plain and the mirrored view.
        whiten: `none`, `pca` or `learned`.
        whitened_size: Dimensions after whitening; None for all.
    """

    flip: str = "none"
    whiten: str = "none"
    whitened_size: int | None = None


@dataclass(frozen=True)
class Rerank:
    """Options of k-reciprocal re-ranking.

    Attributes:
        k1: Size of the reciprocal neighborhoods.
        k2: Number of encodings that are averaged, the own included.
        weight: Share of the cosine in the score (lambda), above 0.
    """

    k1: int = 20
    k2: int = 6
    weight: float = 0.3


@dataclass(frozen=True)
class SearchMode:
    """Options of the search in the gallery.

    Attributes:
        expand_query: Gallery vectors added to each query.
        augment_gallery: Gallery vectors added to each gallery vector.
        rerank: Re-ranking options; None for no re-ranking.
        classifier_weight: Weight of the proxy classifier.
        side: `any`, `same` or `weighted`: treatment of gallery images of another viewpoint than the query's.
        side_penalty: Subtracted from the scores of such images; 0 unless `side` is `weighted`.
    """

    expand_query: int = 0
    augment_gallery: int = 0
    rerank: Rerank | None = None
    classifier_weight: float = 0.0
    side: str = "any"
    side_penalty: float = 0.0

    @property
    def plain(self) -> bool:
        """True if scores are cosines of the unchanged vectors."""
        return replace(self, side="any") == SearchMode()


@dataclass(frozen=True)
class RetrievalSetting:
    """Retrieval setting: turns embeddings into ranked individuals. Changing it needs no training.

    Attributes:
        vote: `nearest`, `majority`, `softmax` or `centroid`.
        neighbours: k; None for votes without k.
        temperature: Temperature of the softmax vote.
        flip: `average` adds the mirrored view to the plain one.
        whiten: `pca` or `learned` whitens the vectors first.
        whitened_size: Dimensions after whitening; None for all.
        expand_query: Near gallery vectors added to each query.
        augment_gallery: Near gallery vectors added to each gallery vector.
        rerank: `none` or `k_reciprocal`; not with the vote `centroid`.
        rerank_k1: k1 of k-reciprocal re-ranking; None without.
        rerank_k2: k2 of k-reciprocal re-ranking; None without.
        rerank_lambda: Share of the cosine in the re-ranked score; None without.
        classifier_weight: Share of the cosine to the individual's proxy in each score; not with the vote `centroid`.
        side: Gallery images of another viewpoint than the query's: `any` treats them like the others, `same` leaves
            them out, `weighted` lowers their scores.
        side_penalty: Number subtracted from their scores; None unless `side` is `weighted`.
        local: Local features that re-rank the first individuals together with the embedding: `sift`, `orb`, the path of
            the ONNX file of a keypoint network, `KEYPOINTS.onnx+MATCHER.onnx` to match them by a network too or, in a
            bundle, their kind; `none` ranks by the embedding alone.

    Raises:
        InputError: If the values exclude each other.
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
    side: str = "any"
    side_penalty: float | None = None
    local: str = "none"

    def __post_init__(self) -> None:
        check_vote(self.vote, neighbours=self.neighbours, temperature=self.temperature)
        for name in _CHOICES:
            if (value := getattr(self, name)) not in (choices := option_choices(name)):
                raise InputError(f"{name} is one of {', '.join(choices)}, but got {value!r}. Name one of them")
        if not _LOCAL.fullmatch(self.local):
            raise InputError(f"local is none, sift, orb or an ONNX file, but got {self.local!r}. Name one of them")
        for name in ("expand_query", "augment_gallery"):
            if getattr(self, name) < 0:
                raise InputError(f"`{name} >= 0` must hold, but got {getattr(self, name)}. Give 0 for none")
        if not 0 <= self.classifier_weight <= 1:
            raise InputError(
                f"`0 <= classifier_weight <= 1` must hold, but got {self.classifier_weight}. Give 0 for no classifier"
            )
        if self.classifier_weight and not has_effect("classifier_weight", {"vote": self.vote}):
            raise InputError(
                f"classifier_weight {self.classifier_weight} scores images, but the vote {self.vote} scores none. "
                "Take another vote"
            )
        self._check_rerank()
        if self.side == "weighted" and not (self.side_penalty and 0 < self.side_penalty <= 2):
            raise InputError(
                f"`0 < side_penalty <= 2` must hold for side weighted, but got {self.side_penalty}. Give 0.1 or so"
            )

    def _check_rerank(self) -> None:
        if self.rerank == "none":
            return
        if not has_effect("rerank", {"vote": self.vote}):
            raise InputError(
                f"rerank {self.rerank} scores images, but the vote {self.vote} scores none. Take another vote"
            )
        k1, k2, weight = self.rerank_k1, self.rerank_k2, self.rerank_lambda
        if k1 is None or k2 is None or weight is None or k1 < 1 or k2 < 1 or not 0 < weight <= 1:
            raise InputError(
                "`rerank_k1 >= 1`, `rerank_k2 >= 1` and `0 < rerank_lambda <= 1` must hold for rerank k_reciprocal, "
                f"but got {k1}, {k2} and {weight}. Give 20, 6 and 0.3 or so"
            )

    @property
    def transform(self) -> VectorTransform:
        """The transformation of the vectors before the search."""
        return VectorTransform(self.flip, self.whiten, self.whitened_size)

    @property
    def search_mode(self) -> SearchMode:
        """The way the gallery is searched."""
        rerank = None
        if self.rerank_k1 and self.rerank_k2 and self.rerank_lambda:
            rerank = Rerank(self.rerank_k1, self.rerank_k2, self.rerank_lambda)
        penalty = (self.side_penalty or 0.0) if self.side == "weighted" else 0.0
        return SearchMode(self.expand_query, self.augment_gallery, rerank, self.classifier_weight, self.side, penalty)

    @property
    def scores_are_cosines(self) -> bool:
        """True if the scores of its rankings are cosines of the vectors: neither re-ranked nor fused."""
        return self.search_mode.plain and self.local == "none"

    def baseline(self) -> RetrievalSetting:
        """Return the same vote and side on the plain embeddings: without whitening, re-ranking, fusion and the like."""
        return RetrievalSetting(
            self.vote,
            self.neighbours,
            self.temperature,
            self.flip,
            side=self.side,
            side_penalty=self.side_penalty,
        )


SETTING_FIELDS = tuple(field.name for field in fields(RetrievalSetting))


def chosen_setting(result: Mapping[str, Any]) -> RetrievalSetting:
    """Return the retrieval setting that a trial's result names as chosen."""
    return RetrievalSetting(**{name: result[name] for name in SETTING_FIELDS if name in result})


def distinct_settings(
    *,
    vote: Sequence[str],
    neighbours: Sequence[int],
    temperature: Sequence[float],
    flip: Sequence[str],
    **others: Sequence[Any],
) -> list[RetrievalSetting]:
    """Return every distinct setting that the values make, first values first, each option only where it has an effect.

    >>> settings = distinct_settings(vote=["nearest", "majority"], neighbours=[1, 3], temperature=[0.05], flip=["none"])
    >>> [(setting.vote, setting.neighbours) for setting in settings]
    [('nearest', None), ('majority', 1), ('majority', 3)]

    Args:
        vote: Votes.
        neighbours: Values of k.
        temperature: Temperatures of the softmax vote.
        flip: Flips.
        **others: Values of the other fields; their default if missing.
    """
    given = {"vote": vote, "neighbours": neighbours, "temperature": temperature, "flip": flip, **others}
    every = (dict(zip(given, values, strict=True)) for values in itertools.product(*given.values()))
    return list(dict.fromkeys(RetrievalSetting(**effective_values(one)) for one in every))


def without_local(settings: Iterable[RetrievalSetting]) -> list[RetrievalSetting]:
    """Return the distinct settings that rank by the embedding alone."""
    return list(dict.fromkeys(replace(setting, local="none") for setting in settings))


def without_classifier(settings: Iterable[RetrievalSetting]) -> list[RetrievalSetting]:
    """Return the distinct settings with a classifier weight of 0."""
    return list(dict.fromkeys(replace(setting, classifier_weight=0.0) for setting in settings))
