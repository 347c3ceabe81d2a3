"""Answer for one photograph: distinct individuals, best first, and whether the animal is probably new."""

from __future__ import annotations

from dataclasses import dataclass, replace

MOST_CANDIDATES = 50  # of one answer


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
    """Probability and decision that the animal is not in the gallery."""

    probability: float | None
    decision: str


@dataclass(frozen=True)
class Identification:
    """Answer for one photograph: distinct individuals, best first."""

    new_individual: NewIndividual
    candidates: tuple[Candidate, ...]

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
