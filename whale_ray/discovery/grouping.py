"""Grouping of photographs at one moment: clusters, questions, contradictions and the number of animals."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from whale_ray.discovery.constraints import Contradiction
from whale_ray.discovery.population_size import PopulationEstimate
from whale_ray.discovery.question_queue import Question


@dataclass(frozen=True)
class Grouping:
    """Clusters of photographs and what to ask next.

    Attributes:
        labels: Cluster of each photograph, int64, shape (N,).
        confidences: Confidence that each photograph belongs to its cluster, float64, shape (N,), 0 to 1: the mean
            probability of its pairs with the others of the cluster; of a photograph that is alone, one minus the
            largest probability with any other.
        questions: Pairs, the most useful first.
        contradictions: Contradictions between answers.
        animals: Estimated number of animals; None if too few pairs were answered.
    """

    labels: np.ndarray
    confidences: np.ndarray
    questions: list[Question] = field(default_factory=list)
    contradictions: list[Contradiction] = field(default_factory=list)
    animals: PopulationEstimate | None = None

    @property
    def clusters(self) -> int:
        """Number of clusters, photographs alone included."""
        return len(np.unique(self.labels))

    @property
    def singletons(self) -> int:
        """Number of photographs that are alone in their cluster."""
        return int((np.unique(self.labels, return_counts=True)[1] == 1).sum())
