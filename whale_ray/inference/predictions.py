"""Answer for one photograph: distinct individuals, best first, and whether the animal is probably new."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from whale_ray.errors import InputError
from whale_ray.retrieval.local.local_index import LocalIndex
from whale_ray.retrieval.search.pools import Pool, PooledRanking, PooledSearcher
from whale_ray.suggestions import suggest

MOST_CANDIDATES = 50  # of one answer


@dataclass(frozen=True)
class MatchedPhotograph:
    """The gallery photograph of a candidate with the most matched points.

    Attributes:
        image: Its file name.
        row: Its gallery row.
        lines: x and y of each matched point in the query and in this photograph, shares of width and height, 0 to 1;
            empty if not asked for.
    """

    image: str
    row: int
    lines: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Candidate:
    """One individual of an answer.

    Attributes:
        rank: Rank from 1.
        individual: Name.
        distance: Smallest cosine distance to the individual, 0 to 2.
        score: What is compared with the threshold: the cosine, or the score of the search mode.
        probability: Probability that it is right; None until calibrated.
        image: File name of the nearest gallery image.
        row: Gallery row of that image.
        matched_points: Most keypoints of the query that agree with one photograph of the individual, among the
            photographs with the most similar keypoints; None without local features.
        matched: That photograph; None if no point matches.
    """

    rank: int
    individual: str
    distance: float
    score: float
    probability: float | None
    image: str
    row: int
    matched_points: int | None = None
    matched: MatchedPhotograph | None = None


@dataclass(frozen=True)
class NewIndividual:
    """Probability and decision that the animal is not in the gallery."""

    probability: float | None
    decision: str


@dataclass(frozen=True)
class AnimalTraits:
    """Viewpoint and species of the animal in a photograph; "" for unknown."""

    viewpoint: str = ""
    species: str = ""


UNKNOWN_TRAITS = AnimalTraits()


@dataclass(frozen=True)
class SearchedPool:
    """Part of the gallery that was searched.

    Attributes:
        view: The only viewpoint of its photographs, beside those without one; None for all.
        species: The only species, likewise.
        images: Number of photographs.
        individuals: Number of individuals.
    """

    view: str | None
    species: str | None
    images: int
    individuals: int


@dataclass(frozen=True)
class Identification:
    """Answer for one photograph: distinct individuals, best first.

    Attributes:
        new_individual: Whether the animal is in the gallery.
        candidates: The individuals.
        pool: Part of the gallery that was searched; None if the gallery has neither viewpoints nor species.
    """

    new_individual: NewIndividual
    candidates: tuple[Candidate, ...]
    pool: SearchedPool | None = None

    def first(self, count: int) -> Identification:
        """Return the answer with at most `count` candidates."""
        return self if len(self.candidates) <= count else replace(self, candidates=self.candidates[:count])

    def labels(self, *, unknown_label: str, count: int = 5, threshold: float | None) -> list[str]:
        """Return at most `count` labels in Kaggle's order.

        Args:
            unknown_label: Enters before the first candidate below the threshold.
            count: Number of labels.
            threshold: The threshold; None never lets `unknown_label` in.
        """
        labels = [candidate.individual for candidate in self.candidates]
        if threshold is not None:
            far = (place for place, one in enumerate(self.candidates) if one.score < threshold)
            place = next(far, len(labels))
            labels.insert(place, unknown_label)
        return labels[:count]

    def without_probabilities(self) -> Identification:
        """Return the answer without probabilities, as of several photographs: they are calibrated on single ones."""
        candidates = tuple(replace(candidate, probability=None) for candidate in self.candidates)
        return replace(self, new_individual=replace(self.new_individual, probability=None), candidates=candidates)


@dataclass(frozen=True)
class Gallery:
    """A gallery to compare with.

    Attributes:
        images: File name of each row.
        individuals: Individual of each row.
        searcher: Searcher over its vectors.
        keypoints: Local features of its photographs, row by row; None for a setting without.
    """

    images: Sequence[str]
    individuals: Sequence[str]
    searcher: PooledSearcher
    keypoints: LocalIndex | None = None

    @property
    def has_traits(self) -> bool:
        """True if any image has a viewpoint or a species."""
        return bool(self.searcher.viewpoints or self.searcher.species)

    def known_traits(self, traits: AnimalTraits) -> AnimalTraits:
        """Return the traits without a viewpoint or species that no photograph has."""
        return AnimalTraits(
            traits.viewpoint if traits.viewpoint in self.searcher.viewpoints else "",
            traits.species if traits.species in self.searcher.species else "",
        )

    def check_traits(self, traits: AnimalTraits) -> None:
        """Check that some photograph has the viewpoint and some the species.

        Raises:
            InputError: If not; with the known values.
        """
        _check_trait("view", traits.viewpoint, self.searcher.viewpoints)
        _check_trait("species", traits.species, self.searcher.species)


@dataclass(frozen=True)
class RankedAnswers:
    """Rankings of Q queries, to be read as answers.

    Attributes:
        found: The rankings.
        match: Probability that each ranked individual is right, shape (Q, R); NaN without calibration.
        new: Probability that the animal is new, shape (Q,), likewise.
        gallery: The gallery.
        top: Largest number of candidates of an answer.
        by_probability: An animal is decided as new if that is more probable than not; otherwise the threshold decides.
    """

    found: PooledRanking
    match: np.ndarray
    new: np.ndarray
    gallery: Gallery
    top: int
    by_probability: bool = False

    def read(self, query: int, *, threshold: float | None) -> Identification:
        """Return the answer to one query.

        Args:
            query: Position of the query.
            threshold: First score below which the animal is new, unless a probability decides; None for never.
        """
        individuals, scores = self.found.ranking.individuals[query], self.found.ranking.cosines[query]
        count = int(min(self.top, (individuals >= 0).sum()))
        candidates = tuple(
            Candidate(
                rank=place + 1,
                individual=str(self.gallery.searcher.index.names[individuals[place]]),
                distance=min(max(1.0 - float(self.found.cosines[query, place]), 0.0), 2.0),
                score=float(scores[place]),
                probability=_share(self.match[query, place]),
                image=self.gallery.images[self.found.images[query, place]],
                row=int(self.found.images[query, place]),
            )
            for place in range(count)
        )
        probability = _share(self.new[query])
        if self.by_probability and probability is not None:
            known = bool(candidates) and probability < 0.5
        else:
            known = bool(candidates) and (threshold is None or candidates[0].score >= threshold)
        pool = _searched(self.found.pools[query]) if self.gallery.has_traits else None
        return Identification(NewIndividual(probability, "known" if known else "new"), candidates, pool)


def _searched(pool: Pool) -> SearchedPool:
    return SearchedPool(pool.viewpoint or None, pool.species or None, len(pool.rows), len(pool.codes))


def _share(probability: float) -> float | None:
    return None if np.isnan(probability) else float(probability)


def _check_trait(name: str, value: str, known: Sequence[str]) -> None:
    if value and not known:
        raise InputError(f"the gallery has no {name}, but got {value!r}. Leave {name} out")
    if value and value not in known:
        hint = suggest(value, known) or "Name one of them, or leave it out"
        raise InputError(f"{name} is one of {', '.join(known)} here, but got {value!r}. {hint}")
