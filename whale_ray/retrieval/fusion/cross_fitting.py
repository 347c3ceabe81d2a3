"""Cross-fitting of fusion models, and the choice between scores as they are and isotonic calibration."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from whale_ray.retrieval.fusion.fusion_model import FusionModel, fit_fusion_model, fitted_candidates

FEWEST_FOR_CURVES: Final = 200
"""Right candidates below which isotonic calibration is not tried."""
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
    features: np.ndarray, right: np.ndarray, folds: np.ndarray, *, clusters: np.ndarray | None = None
) -> CrossFit | None:
    """Return the cross-fitted scores and the model; None if a model cannot be fitted.

    Scores of some folds alone could not be compared. Isotonic calibration is taken where its cross-fitted log loss is
    smaller by more than two standard errors. This one choice is made on all folds.

    Args:
        features: From `candidate_features`, shape (Q, R, F).
        right: Whether the candidate is the individual of the query, bool, shape (Q, R).
        folds: Fold of each query, shape (Q,).
        clusters: Cluster of each query, the unit of the standard error, shape (Q,); None if queries are independent.
    """
    plain = _cross_fitted(features, right, folds, isotonic=False)
    if plain is None or right.sum() < FEWEST_FOR_CURVES:
        return plain
    curved = _cross_fitted(features, right, folds, isotonic=True)
    if curved is None:
        return plain
    gains = plain.losses - curved.losses
    return curved if is_beyond_noise(gains, np.arange(len(gains)) if clusters is None else clusters) else plain


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


def _cross_fitted(features: np.ndarray, right: np.ndarray, folds: np.ndarray, *, isotonic: bool) -> CrossFit | None:
    model = fit_fusion_model(features, right, isotonic=isotonic)
    scores, logits = (np.full(right.shape, np.nan) for _ in range(2))
    for fold in np.unique(folds):
        here = folds == fold
        fitted = fit_fusion_model(features[~here], right[~here], isotonic=isotonic, start=model)
        if fitted is None:
            return None
        scores[here], logits[here] = fitted.scores(features[here]), fitted.log_odds(features[here])
    losses = np.logaddexp(0.0, np.where(right, -logits, logits), out=np.zeros(right.shape), where=~np.isnan(logits))
    losses[~fitted_candidates(features)] = 0.0
    return None if model is None else CrossFit(scores, model, losses.sum(axis=1))
