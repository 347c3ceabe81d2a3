"""Vectors whose cosines follow the scores of a matcher, so that it can vote like an encoder."""

from __future__ import annotations

import numpy as np

from whale_ray.retrieval.search.gallery_index import normalize_rows

SIZE = 128
"""Number of dimensions."""
_STRONGEST = 3  # matches of a photograph whose mean is its scale


def match_vectors(scores: np.ndarray, gallery: np.ndarray, *, size: int = SIZE) -> np.ndarray:
    """Return unit vectors whose cosines approximate the square roots of match scores, scaled by photograph.

    The leading eigenvectors of the symmetric score matrix (kernel principal components: Schölkopf et al., Neural
    Computation 1998). The square root tames the few very large scores of keypoint matchers.

    Args:
        scores: Score of each gallery photograph for each of N photographs, 0 or more, shape (N, G).
        gallery: Row of each gallery photograph among the N, shape (G,).
        size: Largest number of dimensions D.

    Returns:
        float32, shape (N, D). A photograph without a match has a vector that is orthogonal to nearly all others.
    """
    count = len(scores)
    among = np.zeros((count, count), dtype=bool)
    among[:, gallery] = True
    kernel = np.zeros((count, count))
    kernel[:, gallery] = np.sqrt(scores)
    kernel = np.where(among & among.T, (kernel + kernel.T) / 2, np.maximum(kernel, kernel.T))
    np.fill_diagonal(kernel, 0.0)
    strongest = np.sort(kernel, axis=1)[:, -_STRONGEST:].mean(axis=1)
    scale = np.sqrt(np.maximum(strongest, 1e-6))
    kernel = np.minimum(kernel / np.outer(scale, scale), 1.0)
    np.fill_diagonal(kernel, 1.0)
    values, vectors = np.linalg.eigh(kernel)
    leading = np.argsort(-values, kind="stable")[:size]
    leading = leading[values[leading] > 0]
    return normalize_rows((vectors[:, leading] * np.sqrt(values[leading])).astype(np.float32))
