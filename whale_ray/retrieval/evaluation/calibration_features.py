"""Features of a ranking's first candidates, from which a calibration predicts."""

from __future__ import annotations

import numpy as np

CANDIDATES = 5
"""Number of first candidates on which a calibration is fitted."""


def leads(cosines: np.ndarray) -> np.ndarray:
    """Return how far each cosine (Q, R) exceeds the largest of the other first candidates; 0 if there is no other.

    >>> leads(np.array([[0.9, 0.6, 0.8]])).round(6).tolist()
    [[0.1, -0.3, -0.1]]
    """
    first = np.nan_to_num(cosines[:, :CANDIDATES], nan=-np.inf)
    if first.shape[1] < 2:
        return np.zeros(cosines.shape)
    order = np.sort(first, axis=1)
    is_largest = cosines == order[:, -1:]
    others = np.where(is_largest, order[:, -2:-1], order[:, -1:])
    return np.where(np.isfinite(others), cosines - others, 0.0)


def candidate_features(cosines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return cosine, lead and an indicator of the first candidate, and which candidates there are.

    Args:
        cosines: Cosines of the ranked candidates, NaN if there are no more, shape (Q, R).

    Returns:
        Features of the first candidates, shape (Q, at most 5, 3), and bool, shape (Q, at most 5).
    """
    shown = cosines[:, :CANDIDATES]
    is_first = np.broadcast_to(np.arange(shown.shape[1]) == 0, shown.shape)
    return np.stack([shown, leads(shown), is_first], axis=2), ~np.isnan(shown)


def with_strangers(features: np.ndarray, strangers: np.ndarray | None) -> np.ndarray:
    """Return features of first candidates with the cosine of strangers as the last, if every query has one.

    Args:
        features: Shape (Q, F).
        strangers: From `stranger_cosines`, shape (Q,); None without a cohort.
    """
    if strangers is None or np.isnan(strangers).any():
        return features
    return np.column_stack([features, strangers])
