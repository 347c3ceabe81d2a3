"""Occlusion maps: which part of an image a match rests on, measured by covering parts of it.

Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV 2014. The deployed encoder is used with
its pooling, neck, whitening and mirrored views.
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
class OcclusionVectors:
    """Unit embeddings of an image, whole and with each patch covered.

    Attributes:
        whole: Shape (D,).
        parts: Shape (rows + 1, columns + 1, D): a patch of two by two cells, indexed by its lower right cell.
    """

    whole: np.ndarray
    parts: np.ndarray

    def losses(self, other: np.ndarray) -> np.ndarray:
        """Return the loss of cosine to `other` (D,) when each cell is covered; negative for a gain.

        The value of a cell is the mean over the four patches that cover it. Shape (rows, columns).
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


def embed_occluded(picture: np.ndarray, geometry: Geometry, embed: Embed) -> OcclusionVectors:
    """Return the embeddings of an image, whole and with each patch replaced by its mean color.

    Args:
        picture: Image with its border, uint8, shape (H', W', 3). It is embedded about 50 times.
        geometry: Geometry of the image.
        embed: Maps images like this one to unit vectors (n, D).
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
    return OcclusionVectors(vectors[0], vectors[1:].reshape(rows + 1, columns + 1, -1))


def _two(edges: np.ndarray, place: int) -> slice:
    """Return the slice of the two cells before `place` + 1, within the image."""
    return slice(int(edges[max(place - 1, 0)]), int(edges[min(place + 1, len(edges) - 1)]))


def _patched(picture: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    patched = picture.copy()
    patched[rows, columns] = picture.mean(axis=(0, 1)).round().astype(np.uint8)
    return patched
