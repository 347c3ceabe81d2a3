"""Cross-fitting of fusion models: the choice between scores as they are and isotonic calibration, then the slopes."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from whale_ray.retrieval.fusion.fusion_model import FusionModel, fit_fusion_model, fitted_candidates, fused_scores

FEWEST_FOR_CURVES: Final = 200
"""Right candidates below which isotonic calibration is not tried."""
FEWEST_FOR_SLOPES: Final = 400
"""Right candidates below which the number of gallery photographs has no effect: with 200, slopes cost accuracy."""
_BEYOND_NOISE = 2.0  # standard errors by which its log loss must be smaller


class CrossFit(NamedTuple):
    """Fused scores of queries, each by a model fitted on the other folds, and the model fitted on all folds.

    Attributes:
        scores: NaN for no candidate, shape (Q, R).
        model: For use.
        losses: Log loss of each query, summed over its leading candidates, shape (Q,).
    """

    scores: np.ndarray
    model: FusionModel
    losses: np.ndarray


def cross_fit(
    features: np.ndarray,
    right: np.ndarray,
    folds: np.ndarray,
    *,
    images: np.ndarray,
    clusters: np.ndarray | None = None,
) -> CrossFit | None:
    """Return the cross-fitted scores and the model; None if a model cannot be fitted.

    Scores of some folds alone could not be compared. Isotonic calibration is taken where its cross-fitted log loss is
    smaller by more than two standard errors. This one choice is made on all folds and without slopes, which take twice
    the time.

    Args:
        features: From `candidate_features`, shape (Q, R, F).
        right: Whether the candidate is the individual of the query, bool, shape (Q, R).
        folds: Fold of each query, shape (Q,).
        images: Number of gallery photographs of the individual of each query, 0 for none, shape (Q,).
        clusters: Cluster of each query, the unit of the standard error, shape (Q,); None if queries are independent.
    """
    found, isotonic = _cross_fitted(features, right, folds, isotonic=False), False
    if found is not None and right.sum() >= FEWEST_FOR_CURVES:
        curved = _cross_fitted(features, right, folds, isotonic=True)
        clusters = np.arange(len(right)) if clusters is None else clusters
        if curved is not None and is_beyond_noise(found.losses - curved.losses, clusters):
            found, isotonic = curved, True
    if found is None or right.sum() < FEWEST_FOR_SLOPES:
        return found
    return _cross_fitted(features, right, folds, images, isotonic=isotonic, start=found.model) or found


def is_beyond_noise(gains: np.ndarray, clusters: np.ndarray) -> bool:
    """Return whether the mean of gains exceeds 0 by more than two standard errors over clusters.

    >>> is_beyond_noise(np.array([1.0, 1.1, 0.9]), np.arange(3)), is_beyond_noise(np.array([3.0, -1.0]), np.arange(2))
    (True, False)

    Args:
        gains: Shape (Q,).
        clusters: Cluster of each gain, shape (Q,).
    """
    codes = np.unique(clusters, return_inverse=True)[1]
    sums = np.bincount(codes, gains - gains.mean())
    return bool(gains.sum() > _BEYOND_NOISE * np.sqrt(np.square(sums).sum()))


def _cross_fitted(
    features: np.ndarray,
    right: np.ndarray,
    folds: np.ndarray,
    images: np.ndarray | None = None,
    *,
    isotonic: bool,
    start: FusionModel | None = None,
) -> CrossFit | None:
    leading = fitted_candidates(features)
    model = fit_fusion_model(features, right, images=images, isotonic=isotonic, start=start, leading=leading)
    logits = np.full(right.shape, np.nan)
    for fold in np.unique(folds):
        here = folds == fold
        fitted = fit_fusion_model(
            features[~here],
            right[~here],
            images=None if images is None else images[~here],
            isotonic=isotonic,
            start=model,
            leading=leading[~here],
        )
        if fitted is None:
            return None
        logits[here] = fitted.log_odds(features[here])
    losses = np.logaddexp(0.0, np.where(right, -logits, logits), out=np.zeros(right.shape), where=~np.isnan(logits))
    losses[~leading] = 0.0
    return None if model is None else CrossFit(fused_scores(logits), model, losses.sum(axis=1))
