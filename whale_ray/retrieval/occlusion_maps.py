"""Which part of a photograph a match rests on: what the cosine loses when that part is covered.

Occlusion (Zeiler and Fergus, ECCV 2014) asks the encoder as it is deployed, whatever it is made of: pooling, neck,
whitening and mirrored views included. Knows pictures as arrays and an encoder as a function; knows no names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from whale_ray.data.image_io import Geometry

Embed = Callable[[Sequence[np.ndarray]], np.ndarray]
CELLS = 36
_BATCH = 32


@dataclass(frozen=True)
class Covered:
    """One photograph, whole and with each part covered, as unit vectors.

    whole: (D,). parts: (rows + 1, columns + 1, D): a patch of two by two cells, its lower right cell at that place.
    """

    whole: np.ndarray
    parts: np.ndarray

    def losses(self, other: np.ndarray) -> np.ndarray:
        """What the cosine with `other` (D,) loses where each cell is covered: (rows, columns), negative for a gain.

        The mean over the four patches that cover the cell.
        """
        lost = self.whole @ other - self.parts @ other
        return np.asarray((lost[:-1, :-1] + lost[1:, :-1] + lost[:-1, 1:] + lost[1:, 1:]) / 4.0)


def cells_of(geometry: Geometry) -> tuple[int, int]:
    """Rows and columns of about 36 cells that are nearly square.

    >>> cells_of(Geometry(224, 224)), cells_of(Geometry(128, 256))
    ((6, 6), (4, 9))
    """
    rows = max(2, round((CELLS * geometry.height / geometry.width) ** 0.5))
    return rows, max(2, round(CELLS / rows))


def cover(picture: np.ndarray, geometry: Geometry, embed: Embed) -> Covered:
    """The vectors of a picture, uint8 (H', W', 3) with its border, whole and with each patch in its mean colour.

    It is embedded about 50 times. embed: pictures like this one to unit vectors (n, D).
    """
    rows, columns = cells_of(geometry)
    edges = [
        border + np.linspace(0, side, cells + 1).round().astype(int)
        for border, side, cells in zip(geometry.border, (geometry.height, geometry.width), (rows, columns), strict=True)
    ]
    pictures = [picture]
    for row in range(rows + 1):
        for column in range(columns + 1):
            pictures.append(_patched(picture, _two(edges[0], row), _two(edges[1], column)))
    vectors = np.concatenate([embed(pictures[at : at + _BATCH]) for at in range(0, len(pictures), _BATCH)])
    return Covered(vectors[0], vectors[1:].reshape(rows + 1, columns + 1, -1))


def _two(edges: np.ndarray, place: int) -> slice:
    """The two cells before `place` + 1, as far as there are such."""
    return slice(int(edges[max(place - 1, 0)]), int(edges[min(place + 1, len(edges) - 1)]))


def _patched(picture: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    patched = picture.copy()
    patched[rows, columns] = picture.mean(axis=(0, 1)).round().astype(np.uint8)
    return patched
