"""What is said of one photograph: distinct individuals, best first, and whether the animal is probably a new one.

Knows names and numbers alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Candidate:
    """One individual of an answer. distance: the smallest cosine distance to it (0 to 2); image: where it was seen.

    score: what is held against the threshold: the cosine, 1 - distance, unless the setting expands, augments,
    re-ranks or mixes in a classifier; then what that search gives in its place.
    """

    rank: int
    individual: str
    distance: float
    score: float
    probability: float | None
    image: str
    row: int


@dataclass(frozen=True)
class NewIndividual:
    """Whether the animal is probably one that the gallery does not hold."""

    probability: float | None
    decision: str


@dataclass(frozen=True)
class Identification:
    """The answer for one photograph: distinct individuals, best first."""

    new_individual: NewIndividual
    candidates: tuple[Candidate, ...]

    def first(self, count: int) -> Identification:
        """The same with at most `count` candidates."""
        return self if len(self.candidates) <= count else replace(self, candidates=self.candidates[:count])

    def labels(self, *, unknown_label: str, count: int = 5, threshold: float | None) -> list[str]:
        """At most `count` labels in Kaggle's order: `unknown_label` before the first candidate below the threshold."""
        labels = [candidate.individual for candidate in self.candidates]
        if threshold is not None:
            far = (place for place, one in enumerate(self.candidates) if one.score < threshold)
            place = next(far, len(labels))
            labels.insert(place, unknown_label)
        return labels[:count]
