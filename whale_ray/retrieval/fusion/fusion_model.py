"""Fusion model: the probability that a candidate is right, by logistic regression on its features.

Čermák et al., "WildFusion: individual animal identification with calibrated similarity fusion", ECCV workshops 2024,
calibrate each score by itself and average the probabilities; one regression on all scores weighs them as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from whale_ray.errors import BundleError
from whale_ray.retrieval.fusion.candidate_features import FEATURES
from whale_ray.retrieval.search.gallery_index import STEPS

LIMIT: Final = 20.0
"""Log-odds at which fused scores end: a score of 1."""
FEWEST: Final = 10
"""Right and wrong candidates, of each so many, below which no model is fitted."""
_FITTED = {"rank": 20, "individual_rank": 10, "photograph_rank": 10}
"""The model is fitted on candidates with such a rank at most: the others are wrong without a doubt, but cost time."""
_PENALTY = 1.0  # of the squared weights of standardized features, against the sum over candidates


@dataclass(frozen=True)
class FusionModel:
    """Log-odds that a candidate is right: linear in its features.

    Attributes:
        intercept: Log-odds without features.
        weights: Weight of each feature, by name.
    """

    intercept: float
    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        if tuple(self.weights) != FEATURES:
            raise BundleError(
                f"a fusion model weighs {', '.join(FEATURES)}, but got {', '.join(self.weights)}. Another version made "
                "it: run the sweep again"
            )

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Return the fused score of each candidate, shape (Q, R): log-odds / 20, within -1 and 1; NaN stays NaN.

        Multiples of 1e-6 like cosines. The score of a candidate does not depend on the number of queries.

        Args:
            features: From `candidate_features`, shape (Q, R, F).
        """
        logits = np.full(features.shape[:2], self.intercept)
        for place, weight in enumerate(self.weights.values()):
            logits += weight * features[:, :, place]
        return np.asarray(np.rint(np.clip(logits, -LIMIT, LIMIT) / LIMIT * STEPS) / STEPS)

    def written(self) -> dict[str, Any]:
        """As JSON; `read_fusion_model` reads it."""
        return asdict(self)


def read_fusion_model(written: Mapping[str, Any]) -> FusionModel:
    """Return the model that `FusionModel.written` wrote.

    Raises:
        BundleError: If it has other features or no numbers.
    """
    try:
        weights = {name: float(written["weights"][name]) for name in FEATURES if name in written["weights"]}
        model = FusionModel(float(written["intercept"]), weights)
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"a fusion model has an intercept and weights, but got {written!r}. Make it again") from error
    if not np.isfinite([model.intercept, *weights.values()]).all():
        raise BundleError("the weights of a fusion model must be finite, but some are not. Make it again")
    return model


def fit_fusion_model(features: np.ndarray, right: np.ndarray) -> FusionModel | None:
    """Fit the model on the leading candidates of Q queries; None if too few of them are right or wrong.

    Args:
        features: From `candidate_features`, NaN for no candidate, shape (Q, R, F).
        right: Whether the candidate is the individual of the query, bool, shape (Q, R).
    """
    from sklearn.linear_model import LogisticRegression

    there = ~np.isnan(features).any(axis=2)
    columns = {FEATURES.index(name): np.log(rank) + 1e-9 for name, rank in _FITTED.items()}
    there &= np.any([features[:, :, column] <= log_rank for column, log_rank in columns.items()], axis=0)
    rows, outcomes = features[there], right[there]
    if min(outcomes.sum(), (~outcomes).sum()) < FEWEST:
        return None
    middle, spread = rows.mean(axis=0), rows.std(axis=0)
    spread = np.where(spread > 1e-12, spread, 1.0)
    fitted = LogisticRegression(C=1.0 / _PENALTY, solver="newton-cholesky", max_iter=100)
    fitted.fit((rows - middle) / spread, outcomes)
    weights = fitted.coef_[0] / spread
    intercept = float(fitted.intercept_[0] - weights @ middle)
    return FusionModel(intercept, dict(zip(FEATURES, map(float, weights), strict=True)))


def cross_fit(features: np.ndarray, right: np.ndarray, folds: np.ndarray) -> tuple[np.ndarray, FusionModel] | None:
    """Return the fused scores of queries, each by a model fitted on the other folds, and the model fitted on all.

    None if a model cannot be fitted: scores of some folds alone could not be compared.

    Args:
        features: From `candidate_features`, shape (Q, R, F).
        right: Whether the candidate is the individual of the query, bool, shape (Q, R).
        folds: Fold of each query, shape (Q,).

    Returns:
        Scores, NaN for no candidate, shape (Q, R), and the model.
    """
    scores = np.full(right.shape, np.nan)
    for fold in np.unique(folds):
        here = folds == fold
        if (model := fit_fusion_model(features[~here], right[~here])) is None:
            return None
        scores[here] = model.scores(features[here])
    model = fit_fusion_model(features, right)
    return None if model is None else (scores, model)
