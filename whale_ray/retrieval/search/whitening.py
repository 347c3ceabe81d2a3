"""Whitening: a linear map fitted in closed form on training embeddings.

`pca` gives every direction the same variance (Jégou and Chum, "Negative evidences and co-occurrences in image
retrieval", ECCV 2012). `learned` gives the same variance to every direction in which images of one individual differ,
then rotates to the directions of largest total variance (Mikolajczyk and Matas, ICCV 2007; Radenović et al., TPAMI
2018).

N vectors of D dimensions cost O(min(N, D)² max(N, D)): with N <= D no D x D matrix is made.
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
_LEAST_DEVIATION = 1e-6  # of the largest: directions with less do not vary


@dataclass(frozen=True)
class LowRankMap:
    """The symmetric D x D map `scale * I + directions @ diag(gains) @ directions.T`, without that matrix.

    Attributes:
        scale: Factor of every direction outside `directions`.
        directions: Orthonormal or 0, float64, shape (D, r).
        gains: What each of them gets beside `scale`, float64, shape (r,).
    """

    scale: float
    directions: np.ndarray
    gains: np.ndarray

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """Return the mapped vectors, shape (N, D), of vectors (N, D)."""
        return np.asarray(self.scale * vectors + ((vectors @ self.directions) * self.gains) @ self.directions.T)


@dataclass(frozen=True)
class Whitening:
    """A linear map of unit vectors.

    Attributes:
        mean: Subtracted from each vector, float64, shape (D,).
        matrix: Multiplied to the rest, float64, shape (D, d), directions of largest variance first.
        all_directions: With N <= D, the map to all D dimensions; `matrix` then holds the N - 1 directions in which the
            N training vectors differ. None if `matrix` is the whole map.
    """

    mean: np.ndarray
    matrix: np.ndarray
    all_directions: LowRankMap | None = None

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """Whitened unit vectors, float16 (N, d), of vectors (N, D)."""
        centered = normalize_rows(vectors).astype(np.float64) - self.mean
        moved = centered @ self.matrix if self.all_directions is None else self.all_directions.apply(centered)
        return normalize_rows(moved, rounded=False).astype(np.float16)

    def shortened(self, size: int) -> Whitening:
        """Return the map to the first `size` dimensions, those of largest variance; all if there are fewer.

        A size from N to D - 1 gives the N - 1 dimensions in which the training vectors differ.
        """
        return self if size >= len(self.mean) else Whitening(self.mean, self.matrix[:, :size])

    def dense_matrix(self) -> np.ndarray:
        """Return the whole map as one matrix, shape (D, d)."""
        return self.matrix if self.all_directions is None else self.all_directions.apply(np.eye(len(self.mean)))


def fit_whitening(vectors: np.ndarray, individuals: np.ndarray, *, kind: str, unknown_label: str) -> Whitening:
    """Return the whitening of N training vectors in all D dimensions, those of largest variance first.

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
    centered = precise - mean
    fit = _fit_wide if len(vectors) <= vectors.shape[1] else _fit_narrow
    if kind == "pca":
        return fit(mean, centered, within=None)
    return fit(mean, centered, within=_around_individuals(precise, np.asarray(individuals, dtype=str), unknown_label))


def _fit_narrow(mean: np.ndarray, centered: np.ndarray, *, within: np.ndarray | None) -> Whitening:
    """Return the whitening of N > D vectors, from D x D covariances; `within` None fits `pca`."""
    if within is None:
        return Whitening(mean, _principal_directions(centered, white=True))
    white = _whitening_of(within.T @ within / len(within))
    return Whitening(mean, white @ _principal_directions(centered @ white, white=False))


def _fit_wide(mean: np.ndarray, centered: np.ndarray, *, within: np.ndarray | None) -> Whitening:
    """Return the whitening of N <= D vectors, from N x N products; `within` None fits `pca`."""
    most = len(centered) - 1
    whole = _low_rank_whitening(centered if within is None else within)
    if within is None:
        white = (whole.scale + whole.gains[:most]) * whole.directions[:, :most]
        return Whitening(mean, white, whole)
    _, rows = _singular_directions(whole.apply(centered))
    return Whitening(mean, whole.apply(rows[:most]).T, whole)


def _low_rank_whitening(centered: np.ndarray) -> LowRankMap:
    """Return the map that gives centered vectors (n, D) the same variance in every direction, but for the shrinkage."""
    count, features = centered.shape
    deviations, rows = _singular_directions(centered)
    variances = np.zeros(features)
    variances[: len(deviations)] = deviations**2 / count
    scales = 1.0 / np.sqrt(_shrunk(variances))
    rest = float(scales[-1])
    return LowRankMap(rest, rows.T, scales[: len(deviations)] - rest)


def _singular_directions(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return singular values (n,), falling, and right singular vectors (n, D) of n <= D vectors; both 0 for null ones.

    The eigenvectors of the n x n products take a tenth of the time of a thin singular value decomposition.
    """
    values, left = np.linalg.eigh(vectors @ vectors.T)
    deviations = np.sqrt(np.clip(values[::-1], 0.0, None))
    varying = deviations > _LEAST_DEVIATION * deviations[0]
    deviations = np.where(varying, deviations, 0.0)
    rows = left[:, ::-1].T @ vectors
    return deviations, np.divide(rows, deviations[:, None], out=np.zeros_like(rows), where=varying[:, None])


def _around_individuals(vectors: np.ndarray, individuals: np.ndarray, unknown_label: str) -> np.ndarray:
    """Return named vectors, shape (n, D), without the mean of their individual."""
    named = individuals != unknown_label
    _, codes, sizes = np.unique(individuals[named], return_inverse=True, return_counts=True)
    if not (sizes > 1).any():
        raise InputError(
            "whiten: learned learns from individuals with two training photographs, but there is none. Take whiten: pca"
        )
    order = np.argsort(codes, kind="stable")
    rows, starts = vectors[named][order], np.cumsum(sizes) - sizes
    means = np.add.reduceat(rows, starts, axis=0) / sizes[:, None]
    return np.asarray(rows - means[codes[order]])


def _whitening_of(covariance: np.ndarray) -> np.ndarray:
    values, directions = np.linalg.eigh(covariance)
    return np.asarray(directions / np.sqrt(_shrunk(values)))


def _principal_directions(centered: np.ndarray, *, white: bool) -> np.ndarray:
    """Return the directions (D, D) of centered vectors by falling variance; `white` divides each by its deviation."""
    values, directions = np.linalg.eigh(centered.T @ centered / len(centered))
    directions = directions / np.sqrt(_shrunk(values)) if white else directions
    return np.asarray(directions[:, ::-1])


def _shrunk(variances: np.ndarray) -> np.ndarray:
    positive = np.clip(variances, 0.0, None)
    return np.asarray(positive + max(_SHRINKAGE * float(positive.mean()), 1e-12))
