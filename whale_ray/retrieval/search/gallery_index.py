"""Gallery index: unit vectors sorted by individual, prepared once for many searches."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from whale_ray.errors import InputError
from whale_ray.retrieval.search.nearest_images.inverted_lists import InvertedLists, MovedLists

STEPS = 1_000_000  # cosines are multiples of 1 / STEPS
_NUMBERS = 2**20  # held at once in float64


def normalize_rows(vectors: np.ndarray, *, rounded: bool = True) -> np.ndarray:
    """Return the rows as float32 unit vectors, shape (n, D); zero rows stay zero.

    >>> normalize_rows(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]

    Args:
        vectors: Shape (n, D).
        rounded: First round to float16, as vectors are stored.

    Raises:
        ValueError: If a number is not finite.
    """
    given = np.asarray(vectors)
    unit = np.empty(given.shape, dtype=np.float32)
    rows = max(1, _NUMBERS // max(1, given.shape[1]))
    for start in range(0, len(given), rows):
        unit[start : start + rows] = _unit_rows(given[start : start + rows], np.float16 if rounded else np.float64)
    return unit


def _unit_rows(vectors: np.ndarray, stored: type[np.floating[Any]]) -> np.ndarray:
    """Return the rows, first converted to the type in which they are stored, at unit length, float64."""
    precise = vectors.astype(stored).astype(np.float64)
    if not np.isfinite(precise).all():
        raise ValueError("vectors must be finite in float16, but some are not. Bring them to unit length first")
    length = np.sqrt(np.einsum("nd,nd->n", precise, precise))[:, None]
    return np.asarray(precise / np.where(length > 0, length, 1.0))


def required_views(flip: str) -> tuple[str, ...]:
    """Return the names of the views that a setting with this `flip` uses."""
    return ("plain", "flip") if flip == "average" else ("plain",)


def combine_views(views: Mapping[str, np.ndarray], flip: str) -> np.ndarray:
    """Return the vectors that a setting with this `flip` uses, float16, shape (N, D).

    Args:
        views: Vectors of the views `plain` and `flip`.
        flip: `none` for the plain view, `average` for the unit mean of both.

    Raises:
        InputError: If a view is missing.
    """
    wanted = required_views(flip)
    missing = [view for view in wanted if view not in views]
    if missing:
        raise InputError(f"flip {flip} needs the views {', '.join(wanted)}, but got {', '.join(views)}. Embed them")
    if len(wanted) == 1:
        return np.asarray(views["plain"], dtype=np.float16)
    total = np.sum([normalize_rows(views[view]) for view in wanted], axis=0)
    return normalize_rows(total, rounded=False).astype(np.float16)


class GalleryIndex:
    """Gallery vectors in the order of their individuals' names.

    Args:
        vectors: Shape (N, D); float16 as stored.
        labels: N names.
        rounded: Round the vectors to float16 first.
        ready: The vectors come from `normalize_rows`.

    Attributes:
        names: The C distinct names, sorted. The code of an individual is its position here.
        rows: Original row of each vector, shape (N,).
        codes: Individual of each vector, shape (N,).
        vectors: Unit vectors, float32, shape (N, D).
        starts: First position of each individual.
        lists: Inverted lists that propose candidates in a large gallery; None for an exact search.
    """

    lists: InvertedLists | MovedLists | None = None

    def __init__(self, vectors: np.ndarray, labels: np.ndarray, *, rounded: bool = True, ready: bool = False) -> None:
        self.names, codes = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
        self.rows = np.argsort(codes, kind="stable")
        self.codes = codes[self.rows]
        self.images_per_individual = np.bincount(codes, minlength=len(self.names))
        self.starts = np.cumsum(self.images_per_individual) - self.images_per_individual
        # Rows are sorted before they are normalized: the copy then has the size of what is stored, half of float32.
        ordered = np.asarray(vectors)[self.rows]
        self.vectors = ordered if ready else normalize_rows(ordered, rounded=rounded)

    def __len__(self) -> int:
        return len(self.rows)

    def move_lists(self, earlier: GalleryIndex, rows: np.ndarray) -> None:
        """Use the inverted lists of an earlier gallery; without lists there, the search stays exact.

        Args:
            earlier: Index of the earlier gallery.
            rows: Row in the earlier gallery of the first images of this one, shape (n,); the others have come since.
        """
        if not isinstance(earlier.lists, InvertedLists):
            return
        of_row, places = np.full(len(earlier), -1), np.argsort(self.rows)
        of_row[rows] = places[: len(rows)]
        self.lists = MovedLists(earlier.lists, of_row[earlier.rows], places[len(rows) :])

    def codes_of(self, labels: np.ndarray) -> np.ndarray:
        """Return the code of each label, int64; -1 for labels without a gallery image."""
        labels = np.asarray(labels, dtype=str)
        if not len(self.names):
            return np.full(len(labels), -1)
        codes = np.minimum(np.searchsorted(self.names, labels), len(self.names) - 1)
        return np.where(self.names[codes] == labels, codes, -1)

    @cached_property
    def centroids(self) -> GalleryIndex:
        """Return an index over the normalised class means, one vector per individual, in the order of `names`."""
        if not len(self):
            return self
        sums = np.add.reduceat(self.vectors, self.starts, axis=0, dtype=np.float64)
        return GalleryIndex(sums, self.names, rounded=False)
