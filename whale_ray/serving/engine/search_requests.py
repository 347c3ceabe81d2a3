"""Requests and results of a batch of searches."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from whale_ray.inference.keypoints.keypoint_matcher import QueryKeypoints
from whale_ray.inference.predictions import AnimalTraits, Identification


@dataclass(frozen=True)
class SearchRequest:
    """A search.

    Attributes:
        array: The embedding, shape (D,); before it is embedded, the prepared photograph, uint8, shape (H, W, 3).
        top: Number of individuals.
        traits: Viewpoint and species of the animal.
        photographs: Number of photographs whose normalized mean the embedding is.
        keypoints: Local features of the photograph, or of each photograph; None for a bundle without.
        lines: Also find the lines that join matched keypoints.
    """

    array: np.ndarray
    top: int
    traits: AnimalTraits
    photographs: int = 1
    keypoints: QueryKeypoints = None
    lines: bool = False

    def embedded(self, vector: np.ndarray) -> SearchRequest:
        """Return the request with its photograph replaced by the embedding, shape (D,)."""
        return replace(self, array=vector)


@dataclass(frozen=True)
class SearchResult:
    """Result of a search.

    Attributes:
        identification: The answer.
        complete: The search covered every enrolled picture.
        request: The request, with its embedding.
        began: Start by `time.perf_counter`.
    """

    identification: Identification
    complete: bool
    request: SearchRequest
    began: float
