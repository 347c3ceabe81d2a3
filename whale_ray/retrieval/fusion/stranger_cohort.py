"""Cohort of unknown animals: how near strangers come to a query and to a candidate.

Cosines of a fusion are normalized by it, and the probability that an animal is new depends on it.

Adaptive symmetric normalization of speaker verification: Matějka et al., "Analysis of score normalization in
multilingual speaker recognition", Interspeech 2017.
"""

from __future__ import annotations

from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from whale_ray.retrieval.search.gallery_index import STEPS, GalleryIndex, normalize_rows

NEAREST: Final = 20
"""Cosines of a cohort that count: those of its nearest photographs, to a query or to a candidate."""
FEWEST: Final = 20
"""Photographs of unknown animals below which there is no cohort."""
MOST: Final = 300
"""Photographs of a cohort; of more, so many are taken, evenly."""
_ONE_IN = 20  # photographs of a cohort, those nearest to a query: a share, so that it holds for larger cohorts too
_LEAST_DEVIATION = 0.001  # of cosines: strangers that are copies of one photograph have none
_AT_ONCE = 64  # photographs of the cohort that meet the gallery together


class CohortCosines(NamedTuple):
    """Mean and standard deviation of the cosines of a cohort, each of shape (n,)."""

    means: np.ndarray
    deviations: np.ndarray


class Cohort:
    """Photographs of unknown animals. They are no candidates.

    Cosines are rounded and added up as whole numbers, so that a score depends neither on the other queries nor on the
    machine.

    Args:
        vectors: Unit vectors, float16 as stored, shape (U, D).
    """

    def __init__(self, vectors: np.ndarray) -> None:
        self._vectors = normalize_rows(vectors).astype(np.float64)
        self._of_galleries: WeakKeyDictionary[GalleryIndex, tuple[CohortCosines, CohortCosines]] = WeakKeyDictionary()

    def __len__(self) -> int:
        return len(self._vectors)

    def stranger_cosines(self, queries: np.ndarray) -> np.ndarray:
        """Return how near strangers come to each query: the mean cosine of the nearest twentieth, float64, shape (Q,).

        Args:
            queries: Unit vectors from `normalize_rows`, shape (Q, D).
        """
        return _nearest(self._steps_to(queries), max(1, len(self) // _ONE_IN)).means

    def normalize(
        self, queries: np.ndarray, index: GalleryIndex, codes: np.ndarray, cosines: tuple[np.ndarray, np.ndarray]
    ) -> list[np.ndarray]:
        """Return both cosines of candidates, normalized: standard deviations above the cosines of strangers.

        Each is the mean of two: above the strangers nearest to the query, and above those nearest to the candidate.

        Args:
            queries: Unit vectors from `normalize_rows`, shape (Q, D).
            index: The gallery.
            codes: Candidates, shape (Q, R); -1 for none.
            cosines: To the nearest photograph and to the class mean, each (Q, R); NaN for no candidate.
        """
        asked = _nearest(self._steps_to(queries))
        return [
            (_above(values, asked, np.arange(len(codes))[:, None]) + _above(values, candidates, codes)) / 2
            for values, candidates in zip(cosines, self._of_gallery(index), strict=True)
        ]

    def _steps_to(self, queries: np.ndarray) -> np.ndarray:
        return _steps(queries.astype(np.float64) @ self._vectors.T)

    def _of_gallery(self, index: GalleryIndex) -> tuple[CohortCosines, CohortCosines]:
        """Return the cosines to the nearest photograph and to the class mean of each individual."""
        if index not in self._of_galleries:
            images, means = (each.vectors.astype(np.float64) for each in (index, index.centroids))
            parts = [self._vectors[start : start + _AT_ONCE].T for start in range(0, len(self), _AT_ONCE)]
            nearest = [np.maximum.reduceat(_steps(images @ part), index.starts, axis=0) for part in parts]
            to_means = _steps(means @ self._vectors.T)
            self._of_galleries[index] = (_nearest(np.concatenate(nearest, axis=1)), _nearest(to_means))
        return self._of_galleries[index]


def stranger_cosines(cohort: Cohort | None, queries: np.ndarray) -> np.ndarray:
    """Return `Cohort.stranger_cosines`, float64, shape (Q,); NaN without a cohort.

    Args:
        cohort: The cohort.
        queries: Unit vectors from `normalize_rows`, shape (Q, D).
    """
    return np.full(len(queries), np.nan) if cohort is None else cohort.stranger_cosines(queries)


def cohort_rows(unknown: np.ndarray) -> np.ndarray:
    """Return the photographs of a cohort, int64, at most `MOST`, evenly taken; none below `FEWEST`.

    Args:
        unknown: Positions of the photographs of unknown animals, shape (U,).
    """
    if len(unknown) < FEWEST:
        return np.zeros(0, dtype=np.int64)
    return np.asarray(unknown)[np.arange(min(len(unknown), MOST)) * len(unknown) // min(len(unknown), MOST)]


def _steps(cosines: np.ndarray) -> np.ndarray:
    return np.asarray(np.rint(cosines * STEPS), dtype=np.int64)


def _nearest(steps: np.ndarray, count: int = NEAREST) -> CohortCosines:
    """Return mean and deviation of the `count` largest cosines of each row, in steps, int64, shape (n, U)."""
    count = min(count, steps.shape[1])
    largest = np.partition(steps, steps.shape[1] - count, axis=1)[:, -count:]
    sums, squares = largest.sum(axis=1), np.square(largest).sum(axis=1)
    deviations = np.sqrt(count * squares - np.square(sums)) / (count * STEPS)
    return CohortCosines(sums / (count * STEPS), np.maximum(deviations, _LEAST_DEVIATION))


def _above(values: np.ndarray, strangers: CohortCosines, places: np.ndarray) -> np.ndarray:
    return np.asarray((values - strangers.means[places]) / strangers.deviations[places])
