"""Grouping of photographs at one moment: clusters, questions, contradictions and the number of animals."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class PairQuestion:
    """A pair of photographs that a person is asked about.

    Attributes:
        first: Row of one photograph.
        second: Row of the other one.
        probability: Probability that both show one animal, 0 to 1.
        gain: Expected change of the clustering by the answer.
    """

    first: int
    second: int
    probability: float
    gain: float


@dataclass(frozen=True)
class AnswerConflict:
    """Two photographs that were answered "different", joined by a chain of "same".

    Attributes:
        first: Row of one photograph.
        second: Row of the other one.
        chain: Rows from `first` to `second`; each neighboring pair was answered "same" or has one name.
    """

    first: int
    second: int
    chain: tuple[int, ...]


@dataclass(frozen=True)
class AnimalCount:
    """Estimated number of animals.

    Attributes:
        count: Estimate.
        low: Lower end of the 95 % interval.
        high: Upper end of the 95 % interval.
        pairs: Number of answered pairs that the estimate uses.
    """

    count: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True)
class Grouping:
    """Clusters of photographs and what to ask next.

    Attributes:
        labels: Cluster of each photograph, int64, shape (N,).
        confidences: Confidence that each photograph belongs to its cluster, float64, shape (N,), 0 to 1: the mean
            probability of its pairs with the others of the cluster; of a photograph that is alone, one minus the
            largest probability with any other.
        questions: Pairs, the most useful first.
        conflicts: Contradictions between answers.
        animals: Estimated number of animals; None if too few pairs were answered.
    """

    labels: np.ndarray
    confidences: np.ndarray
    questions: list[PairQuestion] = field(default_factory=list)
    conflicts: list[AnswerConflict] = field(default_factory=list)
    animals: AnimalCount | None = None

    @property
    def clusters(self) -> int:
        """Number of clusters, photographs alone included."""
        return len(np.unique(self.labels))

    @property
    def singletons(self) -> int:
        """Number of photographs that are alone in their cluster."""
        return int((np.unique(self.labels, return_counts=True)[1] == 1).sum())
