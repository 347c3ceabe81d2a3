"""Features of candidates, from scores that a query gives each of them.

Every score counts by its value, by its lead over the best other candidate and by its rank among the candidates. The
last feature is the number of gallery photographs: the more there are, the larger is the largest score by chance alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

SCORES: Final = ("nearest", "mean", "individual", "photograph", "inliers")
"""Scores of a candidate: cosine to the nearest vector and to the class mean; LNBNN score of the individual and of its
best photograph; inliers of its best verified photograph."""
MATCHER_SCORES: Final = (*SCORES, "confidence")
"""The same with a match network: the largest sum of the confidences of its matches with a photograph."""
COHORT_SCORES: Final = ("nearest_normalized", "mean_normalized")
"""Further scores with a cohort of unknown animals: both cosines, normalized by those of strangers."""
ALL_SCORES: Final = (*MATCHER_SCORES, *COHORT_SCORES)


def feature_names(scores: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the features of scores; `rank` is the rank in the ranking by embedding."""
    return ("rank", *(f"{score}_{part}" for score in scores for part in ("value", "lead", "rank")))


FEATURES: Final = feature_names(SCORES)
"""Names of the features without a match network."""
MATCHER_FEATURES: Final = feature_names(MATCHER_SCORES)
"""Names of the features with a match network: those without come first."""
FEATURE_SETS: Final = {
    len(names) + 1: names
    for base in (SCORES, MATCHER_SCORES)
    for names in (feature_names(base), feature_names((*base, *COHORT_SCORES)))
}
"""Names of the features before the last, by the number of all: with or without a match network or a cohort."""


def candidate_features(ranks: np.ndarray, scores: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return the features of candidates, float64, shape (Q, R, F); NaN where none is.

    They have the order of `feature_names`. The last is the logarithm of the number of gallery photographs.

    Args:
        ranks: Rank of each candidate in the ranking by embedding, from 1, shape (Q, R).
        scores: The scores in the order of `ALL_SCORES`, NaN for no candidate, shape (S, Q, R).
        images: Number of gallery photographs of each candidate, shape (Q, R); any number above 0 for no candidate.
    """
    scores = np.asarray(scores, dtype=np.float64)
    ranks, images = (np.where(np.isnan(scores[0]), np.nan, np.log(values)) for values in (ranks, images))
    parts = [ranks]
    for score in scores:
        parts += [score, leads_over_others(score), np.log(ranks_of_scores(score))]
    return np.stack([*parts, images], axis=2)


def features_without(features: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """Return the features as if some candidates were not in the gallery; NaN at their places.

    Args:
        features: From `candidate_features`, shape (Q, R, F).
        removed: The candidate is removed, bool, shape (Q, R).
    """
    ranks, images = (np.rint(np.exp(features[:, :, place])) for place in (0, -1))
    before = (removed[:, None, :] & (ranks[:, None, :] < ranks[:, :, None])).sum(axis=2)
    scores = np.where(removed[:, :, None], np.nan, features[:, :, 1:-1:3])
    return candidate_features(ranks - before, np.moveaxis(scores, 2, 0), images)


def leads_over_others(scores: np.ndarray) -> np.ndarray:
    """Return how far each score exceeds the largest of the other candidates; 0 without others, NaN stays NaN.

    >>> leads_over_others(np.array([[0.5, 2.0, 0.75]])).tolist()
    [[-1.5, 1.25, -1.25]]

    Args:
        scores: NaN for no candidate, shape (Q, R).
    """
    if scores.shape[1] < 2:
        return np.where(np.isnan(scores), np.nan, 0.0)
    given = np.where(np.isnan(scores), -np.inf, scores)
    order = np.sort(given, axis=1)
    others = np.where(given == order[:, -1:], order[:, -2:-1], order[:, -1:])
    leads = scores - np.where(np.isfinite(others), others, scores)
    return np.asarray(leads)


def ranks_of_scores(scores: np.ndarray) -> np.ndarray:
    """Return the rank of each score in its row, from 1; equal scores have the last of their ranks, NaN stays NaN.

    >>> ranks_of_scores(np.array([[0.0, 3.0, 0.0]])).tolist()
    [[3.0, 1.0, 3.0]]

    Args:
        scores: NaN for no candidate, shape (Q, R).
    """
    at_least = scores[:, None, :] >= scores[:, :, None]  # comparisons with NaN are false
    return np.where(np.isnan(scores), np.nan, at_least.sum(axis=2))
