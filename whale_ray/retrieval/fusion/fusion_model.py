"""Fusion model: the probability that a candidate is right, by logistic regression on its features.

Čermák et al., "WildFusion: individual animal identification with calibrated similarity fusion", ECCV workshops 2024,
calibrate each score by itself and average the probabilities; one regression on all scores weighs them as well. Scores
enter as they are, or calibrated by isotonic regression where this is better: see `cross_fitting`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from whale_ray.errors import BundleError
from whale_ray.retrieval.fusion.candidate_features import (
    ALL_SCORES,
    COHORT_SCORES,
    FEATURE_SETS,
    FEATURES,
    feature_names,
)
from whale_ray.retrieval.fusion.isotonic_curves import IsotonicCurve, fit_curve, read_curves
from whale_ray.retrieval.logistic_regression import fit_logistic
from whale_ray.retrieval.search.gallery_index import STEPS

LIMIT: Final = 20.0
"""Log-odds at which fused scores end: a score of 1."""
FEWEST: Final = 10
"""Right and wrong candidates, of each so many, below which no model is fitted."""
VALUES: Final = tuple(f"{score}_value" for score in ALL_SCORES)
"""Features that may be calibrated by isotonic regression."""
_FITTED = {"rank": 20, "individual_rank": 10, "photograph_rank": 10}
"""The model is fitted on candidates with such a rank at most: the others are wrong without a doubt, but cost time."""
_PENALTY = 1.0  # of the squared weights of standardized features, against the sum over candidates


@dataclass(frozen=True)
class FusionModel:
    """Log-odds that a candidate is right: linear in its features, some of them calibrated.

    Attributes:
        intercept: Log-odds without features.
        weights: Weight of each feature, by name.
        shortlist: Number of gallery photographs that each query was compared with; 0 for the whole gallery.
        curves: Isotonic curves by feature, empty if scores enter as they are.
    """

    intercept: float
    weights: Mapping[str, float]
    shortlist: int = 0
    curves: Mapping[str, IsotonicCurve] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if tuple(self.weights) not in FEATURE_SETS.values():
            raise BundleError(
                f"a fusion model weighs {', '.join(FEATURES)}, but got {', '.join(self.weights)}. Another version made "
                "it: run the sweep again"
            )

    @property
    def has_cohort(self) -> bool:
        """True if it weighs cosines that are normalized by a cohort of unknown animals."""
        return f"{COHORT_SCORES[0]}_value" in self.weights

    def log_odds(self, features: np.ndarray) -> np.ndarray:
        """Return the log-odds that each candidate is right, float64, shape (Q, R); NaN stays NaN.

        Args:
            features: From `candidate_features`, shape (Q, R, F).
        """
        logits = np.full(features.shape[:2], self.intercept)
        for place, (name, weight) in enumerate(self.weights.items()):
            values = features[:, :, place]
            logits += weight * (self.curves[name](values) if name in self.curves else values)
        return logits

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Return the fused score of each candidate, shape (Q, R): log-odds / 20, within -1 and 1; NaN stays NaN.

        Multiples of 1e-6 like cosines. The score of a candidate does not depend on the number of queries.

        Args:
            features: From `candidate_features`, shape (Q, R, F).
        """
        logits = self.log_odds(features)
        return np.asarray(np.rint(np.clip(logits, -LIMIT, LIMIT) / LIMIT * STEPS) / STEPS)

    def written(self) -> dict[str, Any]:
        """As JSON; `read_fusion_model` reads it."""
        return asdict(self)


def read_fusion_model(written: Mapping[str, Any]) -> FusionModel:
    """Return the model that `FusionModel.written` wrote; those of older bundles have neither shortlist nor curves.

    Raises:
        BundleError: If it has other features or no numbers.
    """
    try:
        weights = {
            name: float(written["weights"][name]) for name in feature_names(ALL_SCORES) if name in written["weights"]
        }
        curves = read_curves(written.get("curves", {}), VALUES)
        model = FusionModel(float(written["intercept"]), weights, int(written.get("shortlist", 0)), curves)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"a fusion model has an intercept and weights, but got {written!r}. Make it again") from error
    if not np.isfinite([model.intercept, *weights.values()]).all():
        raise BundleError("the weights of a fusion model must be finite, but some are not. Make it again")
    return model


def fitted_candidates(features: np.ndarray) -> np.ndarray:
    """Return the leading candidates, on which models are fitted, bool, shape (Q, R).

    Args:
        features: From `candidate_features`, shape (Q, R, F).
    """
    columns = {FEATURES.index(name): np.log(rank) + 1e-9 for name, rank in _FITTED.items()}
    leading = np.any([features[:, :, column] <= log_rank for column, log_rank in columns.items()], axis=0)
    return np.asarray(leading & ~np.isnan(features).any(axis=2))


def fit_fusion_model(
    features: np.ndarray, right: np.ndarray, *, isotonic: bool = False, start: FusionModel | None = None
) -> FusionModel | None:
    """Fit the model on the leading candidates of Q queries; None if too few of them are right or wrong.

    Args:
        features: From `candidate_features`, NaN for no candidate, shape (Q, R, F).
        right: Whether the candidate is the individual of the query, bool, shape (Q, R).
        isotonic: Calibrate the values of the scores by isotonic regression first.
        start: Model of similar candidates, from which the fit takes fewer steps; None for no model.
    """
    there = fitted_candidates(features)
    rows, outcomes = features[there], right[there]
    if min(outcomes.sum(), (~outcomes).sum()) < FEWEST:
        return None
    curves = {}
    names = FEATURE_SETS[features.shape[2]]
    for name in (one for one in VALUES if isotonic and one in names):
        column = names.index(name)
        curves[name] = fit_curve(rows[:, column], outcomes)
        rows[:, column] = curves[name](rows[:, column])
    first = None if start is None else np.array([start.intercept, *start.weights.values()])
    fitted = fit_logistic(rows, outcomes, penalty=_PENALTY, fewest=FEWEST, start=first)
    if fitted is None:
        return None
    intercept, *weights = map(float, fitted)
    return FusionModel(intercept, dict(zip(names, weights, strict=True)), curves=curves)
