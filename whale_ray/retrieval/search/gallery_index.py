"""The gallery as vectors: unit length, in the order of the individuals' names, prepared once and asked often.

Knows vectors and labels. Knows neither how they are searched nor what an image shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np

from whale_ray.errors import InputError

STEPS = 1_000_000  # cosines are multiples of 1 / STEPS


def unit(vectors: np.ndarray, *, rounded: bool = True) -> np.ndarray:
    """`vectors` as float32 (n, D) of unit length, first rounded to float16 as they are stored; zeros stay.

    >>> unit(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]

    Raises: ValueError where a number is not finite.
    """
    precise = np.asarray(vectors, dtype=np.float16 if rounded else np.float64).astype(np.float64)
    if not np.isfinite(precise).all():
        raise ValueError("vectors must be finite in float16, but some are not. Bring them to unit length first")
    length = np.sqrt(np.einsum("nd,nd->n", precise, precise))[:, None]
    return (precise / np.where(length > 0, length, 1.0)).astype(np.float32)


def views_of(flip: str) -> tuple[str, ...]:
    """The views that a setting with this `flip` sees."""
    return ("plain", "flip") if flip == "average" else ("plain",)


def combine_views(views: Mapping[str, np.ndarray], flip: str) -> np.ndarray:
    """The vectors that a setting with this `flip` sees, float16 (N, D): the view `plain`, or the unit mean
    of `plain` and `flip`.

    Raises: InputError where a view is missing.
    """
    wanted = views_of(flip)
    missing = [view for view in wanted if view not in views]
    if missing:
        raise InputError(f"flip {flip} needs the views {', '.join(wanted)}, but got {', '.join(views)}. Embed them")
    if len(wanted) == 1:
        return np.asarray(views["plain"], dtype=np.float16)
    total = np.sum([unit(views[view]) for view in wanted], axis=0)
    return unit(total, rounded=False).astype(np.float16)


class GalleryIndex:
    """The gallery, prepared once and asked often: unit vectors in the order of their individuals' names.

    vectors: (N, D), any float; float16 is what is stored. labels: N names. `names` holds the C distinct ones in
    order; an individual's code is its place there. `rows`, `codes` and `vectors` (float32) are in that order,
    and `starts` says where an individual begins. ready: the vectors come from `unit`.
    """

    def __init__(self, vectors: np.ndarray, labels: np.ndarray, *, rounded: bool = True, ready: bool = False) -> None:
        self.names, codes = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
        self.rows = np.argsort(codes, kind="stable")
        self.codes = codes[self.rows]
        self.images_per_individual = np.bincount(codes, minlength=len(self.names))
        self.starts = np.cumsum(self.images_per_individual) - self.images_per_individual
        self.vectors = (vectors if ready else unit(np.asarray(vectors), rounded=rounded))[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def codes_of(self, labels: np.ndarray) -> np.ndarray:
        """The code of each label, int64; -1 where the gallery has no image of it."""
        labels = np.asarray(labels, dtype=str)
        if not len(self.names):
            return np.full(len(labels), -1)
        codes = np.minimum(np.searchsorted(self.names, labels), len(self.names) - 1)
        return np.where(self.names[codes] == labels, codes, -1)

    @cached_property
    def centroids(self) -> GalleryIndex:
        """An index over the normalised class means, one vector an individual, in the order of `names`."""
        if not len(self):
            return self
        sums = np.add.reduceat(self.vectors, self.starts, axis=0, dtype=np.float64)
        return GalleryIndex(sums, self.names, rounded=False)
