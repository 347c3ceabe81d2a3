"""Whitening: a linear map fitted in closed form on training embeddings.

`pca` gives every direction the same variance (Jégou and Chum, "Negative evidences and co-occurrences in image
retrieval", ECCV 2012). `learned` gives the same variance to every direction in which images of one individual differ,
then rotates to the directions of largest total variance (Mikolajczyk and Matas, ICCV 2007; Radenović et al., TPAMI
2018).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from whale_ray.errors import InputError
from whale_ray.retrieval.search.gallery_index import normalize_rows
from whale_ray.retrieval.search.retrieval_options import option_choices

WHITENINGS = option_choices("whiten")
# A share of the mean variance is added to each direction's: those that hardly vary would be blown up otherwise.
_SHRINKAGE = 0.2


@dataclass(frozen=True)
class Whitening:
    """A linear map of unit vectors.

    Attributes:
        mean: Subtracted from each vector, float64, shape (D,).
        matrix: Multiplied to the rest, float64, shape (D, d).
    """

    mean: np.ndarray
    matrix: np.ndarray

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """Whitened unit vectors, float16 (N, d), of vectors (N, D)."""
        moved = (normalize_rows(vectors).astype(np.float64) - self.mean) @ self.matrix
        return normalize_rows(moved, rounded=False).astype(np.float16)

    def shortened(self, size: int) -> Whitening:
        """Return the map to the first `size` dimensions, those of largest variance; all if there are fewer."""
        return Whitening(self.mean, self.matrix[:, :size])


def fit_whitening(vectors: np.ndarray, individuals: np.ndarray, *, kind: str, unknown_label: str) -> Whitening:
    """Return the whitening of training vectors in all D dimensions, those of largest variance first.

    Args:
        vectors: Shape (N, D).
        individuals: Name of each row, shape (N,). Unknown individuals count in the total variance only.
        kind: `pca` or `learned`.
        unknown_label: Label of unknown individuals.

    Raises:
        InputError: If `kind` is unknown, there are fewer than two vectors, or `learned` finds no individual with two.
    """
    if kind not in WHITENINGS[1:]:
        raise InputError(f"a whitening is one of {', '.join(WHITENINGS)}, but got {kind!r}. Name one of them")
    if len(vectors) < 2:
        raise InputError(f"whitening learns from training photographs, but there are {len(vectors)}. Take whiten: none")
    precise = normalize_rows(vectors).astype(np.float64)
    mean = precise.mean(axis=0)
    centred = precise - mean
    if kind == "pca":
        return Whitening(mean, _principal_directions(centred, white=True))
    within = _within_covariance(precise, np.asarray(individuals, dtype=str), unknown_label)
    white = _whitening_of(within)
    return Whitening(mean, white @ _principal_directions(centred @ white, white=False))


def _within_covariance(vectors: np.ndarray, individuals: np.ndarray, unknown_label: str) -> np.ndarray:
    """Return the covariance (D, D) of named images around the mean of their individual."""
    named = individuals != unknown_label
    _, codes, sizes = np.unique(individuals[named], return_inverse=True, return_counts=True)
    if not (sizes > 1).any():
        raise InputError(
            "whiten: learned learns from individuals with two training photographs, but there is none. Take whiten: pca"
        )
    order = np.argsort(codes, kind="stable")
    rows, starts = vectors[named][order], np.cumsum(sizes) - sizes
    means = np.add.reduceat(rows, starts, axis=0) / sizes[:, None]
    around = rows - means[codes[order]]
    return np.asarray(around.T @ around / len(around))


def _whitening_of(covariance: np.ndarray) -> np.ndarray:
    values, directions = np.linalg.eigh(covariance)
    return np.asarray(directions / np.sqrt(_shrunk(values)))


def _principal_directions(centred: np.ndarray, *, white: bool) -> np.ndarray:
    """Return the directions (D, D) of centred vectors by falling variance; `white` divides each by its deviation."""
    values, directions = np.linalg.eigh(centred.T @ centred / len(centred))
    directions = directions / np.sqrt(_shrunk(values)) if white else directions
    return np.asarray(directions[:, ::-1])


def _shrunk(variances: np.ndarray) -> np.ndarray:
    positive = np.clip(variances, 0.0, None)
    return np.asarray(positive + max(_SHRINKAGE * float(positive.mean()), 1e-12))
