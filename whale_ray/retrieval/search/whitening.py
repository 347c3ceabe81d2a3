"""Whitening: a linear map, learned in closed form from the training photographs, after which cosines tell more apart.

Knows vectors and labels; it trains nothing and draws nothing. `pca` gives every direction the same spread (Jégou and
Chum, ECCV 2012, "Negative evidences and co-occurrences in image retrieval"). `learned` gives every direction in which
photographs of one individual differ the same spread, then turns to the directions in which photographs differ most
(Mikolajczyk and Matas, ICCV 2007; Radenović, Tolias, Chum, TPAMI 2018, "Fine-tuning CNN image retrieval").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from whale_ray.errors import InputError
from whale_ray.retrieval.search.gallery_index import unit

WHITENINGS = ("none", "pca", "learned")
# A share of the mean variance is added to each direction's: those that hardly vary would be blown up otherwise.
_SHRINKAGE = 0.2


@dataclass(frozen=True)
class Whitening:
    """What is taken from a unit vector, mean (D,), and what the rest is multiplied with, matrix (D, d), float64."""

    mean: np.ndarray
    matrix: np.ndarray

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """Whitened unit vectors, float16 (N, d), of vectors (N, D)."""
        moved = (unit(vectors).astype(np.float64) - self.mean) @ self.matrix
        return unit(moved, rounded=False).astype(np.float16)

    def shortened(self, size: int) -> Whitening:
        """The first `size` dimensions, those that vary most; all, where there are fewer."""
        return Whitening(self.mean, self.matrix[:, :size])


def fit_whitening(vectors: np.ndarray, individuals: np.ndarray, *, kind: str, unknown_label: str) -> Whitening:
    """The whitening of training vectors (N, D), in all D dimensions, those that vary most first.

    individuals: (N,); photographs of the unknown individual count in the spread of all, not in that of one.

    Raises: InputError for another kind, fewer than two photographs, or, for `learned`, no individual with two.
    """
    if kind not in WHITENINGS[1:]:
        raise InputError(f"a whitening is one of {', '.join(WHITENINGS)}, but got {kind!r}. Name one of them")
    if len(vectors) < 2:
        raise InputError(f"whitening learns from training photographs, but there are {len(vectors)}. Take whiten: none")
    precise = unit(vectors).astype(np.float64)
    mean = precise.mean(axis=0)
    centred = precise - mean
    if kind == "pca":
        return Whitening(mean, _principal(centred, white=True))
    within = _within(precise, np.asarray(individuals, dtype=str), unknown_label)
    white = _whitening_of(within)
    return Whitening(mean, white @ _principal(centred @ white, white=False))


def _within(vectors: np.ndarray, individuals: np.ndarray, unknown_label: str) -> np.ndarray:
    """The covariance (D, D) of named photographs around the mean of their individual."""
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


def _principal(centred: np.ndarray, *, white: bool) -> np.ndarray:
    """The directions (D, D) in which centred vectors vary, most first; `white` divides each by its spread."""
    values, directions = np.linalg.eigh(centred.T @ centred / len(centred))
    directions = directions / np.sqrt(_shrunk(values)) if white else directions
    return np.asarray(directions[:, ::-1])


def _shrunk(variances: np.ndarray) -> np.ndarray:
    positive = np.clip(variances, 0.0, None)
    return np.asarray(positive + max(_SHRINKAGE * float(positive.mean()), 1e-12))
