"""Fusion model: the probability that a candidate is right, by logistic regression on its features.

Čermák et al., "WildFusion: individual animal identification with calibrated similarity fusion", ECCV workshops 2024,
calibrate each score by itself and average the probabilities; one regression on all scores weighs them as well. Scores
enter as they are, or calibrated by isotonic regression where this is better: see `cross_fitting`.

Weights may depend on the number of gallery photographs of the candidate: by chance alone, the largest of many scores is
larger.
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
_PENALTY_OF_SLOPES = 10.0  # the same of their products with the logarithm of the number of photographs
_INTERCEPT = "intercept"  # its slope is among those of the weights


@dataclass(frozen=True)
class FusionModel:
    """Log-odds that a candidate is right: linear in its features, some of them calibrated.

    With slopes, intercept and weights are linear in the logarithm of the candidate's number of gallery photographs.

    Attributes:
        intercept: Log-odds without features.
        weights: Weight of each feature, by name.
        shortlist: Number of gallery photographs that each query was compared with; 0 for the whole gallery.
        curves: Isotonic curves by feature, empty if scores enter as they are.
        slopes: Change of `intercept` and of each weight per unit of that logarithm, by name; empty if it has no effect.
    """

    intercept: float
    weights: Mapping[str, float]
    shortlist: int = 0
    curves: Mapping[str, IsotonicCurve] = field(default_factory=dict)
    slopes: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if tuple(self.weights) not in FEATURE_SETS.values():
            raise BundleError(
                f"a fusion model weighs {', '.join(FEATURES)}, but got {', '.join(self.weights)}. Another version made "
                "it: run the sweep again"
            )
        if self.slopes and {*self.slopes} != {_INTERCEPT, *self.weights}:
            raise BundleError(
                f"a fusion model has slopes of its intercept and of each weight, but got {', '.join(self.slopes)}. "
                "Another version made it: run the sweep again"
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
        logits, images = np.full(features.shape[:2], self.intercept), features[:, :, -1]
        if self.slopes:
            logits += self.slopes[_INTERCEPT] * images
        for place, (name, weight) in enumerate(self.weights.items()):
            values = self.curves[name](features[:, :, place]) if name in self.curves else features[:, :, place]
            logits += (weight + self.slopes[name] * images if self.slopes else weight) * values
        return logits

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Return the fused score of each candidate, shape (Q, R): log-odds / 20, within -1 and 1; NaN stays NaN.

        Multiples of 1e-6 like cosines. The score of a candidate does not depend on the number of queries.

        Args:
            features: From `candidate_features`, shape (Q, R, F).
        """
        return fused_scores(self.log_odds(features))

    def written(self) -> dict[str, Any]:
        """As JSON; `read_fusion_model` reads it."""
        return asdict(self)


def read_fusion_model(written: Mapping[str, Any]) -> FusionModel:
    """Return the model that `FusionModel.written` wrote; those of older bundles have no shortlist, curves or slopes.

    Raises:
        BundleError: If it has other features or no numbers.
    """
    try:
        weights = {
            name: float(written["weights"][name]) for name in feature_names(ALL_SCORES) if name in written["weights"]
        }
        curves = read_curves(written.get("curves", {}), VALUES)
        slopes = {str(name): float(value) for name, value in written.get("slopes", {}).items()}
        model = FusionModel(float(written["intercept"]), weights, int(written.get("shortlist", 0)), curves, slopes)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"a fusion model has an intercept and weights, but got {written!r}. Make it again") from error
    if not np.isfinite([model.intercept, *weights.values(), *slopes.values()]).all():
        raise BundleError("the weights of a fusion model must be finite, but some are not. Make it again")
    return model


def fused_scores(logits: np.ndarray) -> np.ndarray:
    """Return the scores of log-odds, as `FusionModel.scores` does."""
    return np.asarray(np.rint(np.clip(logits, -LIMIT, LIMIT) / LIMIT * STEPS) / STEPS)


def fitted_candidates(features: np.ndarray) -> np.ndarray:
    """Return the leading candidates, on which models are fitted, bool, shape (Q, R).

    Args:
        features: From `candidate_features`, shape (Q, R, F).
    """
    columns = {FEATURES.index(name): np.log(rank) + 1e-9 for name, rank in _FITTED.items()}
    leading = np.any([features[:, :, column] <= log_rank for column, log_rank in columns.items()], axis=0)
    return np.asarray(leading & ~np.isnan(features).any(axis=2))


def query_weights(images: np.ndarray) -> np.ndarray:
    """Return the weight of queries in a fit: 1 / the root of the gallery photographs of their individual.

    Animals with many photographs have many queries. By equal weights the model is theirs; by 1 / the number, it loses
    more of them than it gains of the others.

    >>> query_weights(np.array([0, 1, 4])).tolist()
    [1.0, 1.0, 0.5]

    Args:
        images: Number of gallery photographs of the individual, 0 for none, shape (Q,).
    """
    return np.asarray(1.0 / np.sqrt(np.maximum(images, 1)))


def fit_fusion_model(
    features: np.ndarray,
    right: np.ndarray,
    *,
    images: np.ndarray | None = None,
    isotonic: bool = False,
    start: FusionModel | None = None,
    leading: np.ndarray | None = None,
) -> FusionModel | None:
    """Fit the model on the leading candidates of Q queries; None if too few of them are right or wrong.

    Args:
        features: From `candidate_features`, NaN for no candidate, shape (Q, R, F).
        right: Whether the candidate is the individual of the query, bool, shape (Q, R).
        images: Number of gallery photographs of the individual of each query, 0 for none, shape (Q,). If given, queries
            have the weights of `query_weights`, and the model has slopes.
        isotonic: Calibrate the values of the scores by isotonic regression first.
        start: Model of similar candidates, from which the fit takes fewer steps; None for no model.
        leading: From `fitted_candidates`; None if it is not at hand.
    """
    there = fitted_candidates(features) if leading is None else leading
    found, outcomes = features[there], right[there]
    rows, logs = found[:, :-1], found[:, -1:]
    if min(outcomes.sum(), (~outcomes).sum()) < FEWEST:
        return None
    curves = {}
    names = FEATURE_SETS[features.shape[2]]
    weights = None if images is None else np.broadcast_to(query_weights(images)[:, None], there.shape)[there]
    for name in (one for one in VALUES if isotonic and one in names):
        column = names.index(name)
        curves[name] = fit_curve(rows[:, column], outcomes, weights)
        rows[:, column] = curves[name](rows[:, column])
    fitted = _fit_coefficients(rows, outcomes, weights, None if images is None else logs, start)
    if fitted is None:
        return None
    values, *slopes = (dict(zip((_INTERCEPT, *names), map(float, row), strict=True)) for row in fitted)
    return FusionModel(values.pop(_INTERCEPT), values, curves=curves, slopes=slopes[0] if slopes else {})


def _fit_coefficients(
    rows: np.ndarray,
    outcomes: np.ndarray,
    weights: np.ndarray | None,
    logs: np.ndarray | None,
    start: FusionModel | None,
) -> np.ndarray | None:
    """Return intercept and weights, shape (1, 1 + F), and their slopes in a second row if there are `logs`, (N, 1).

    Slopes are fitted around the mean of `logs`, so that their penalty draws towards the model without them.
    """
    first = None if start is None else np.array([start.intercept, *start.weights.values()])
    if logs is None:
        fitted = fit_logistic(rows, outcomes, weights, penalty=_PENALTY, fewest=FEWEST, start=first)
        return None if fitted is None else fitted[None]
    middle, count = logs.mean(), rows.shape[1]
    if start is not None and first is not None:
        slopes = np.array([start.slopes.get(name, 0.0) for name in (_INTERCEPT, *start.weights)])
        first = np.concatenate([first + middle * slopes, slopes])
    centered = logs - middle
    fitted = fit_logistic(
        np.concatenate([rows, centered, rows * centered], axis=1),
        outcomes,
        weights,
        penalty=np.repeat([_PENALTY, _PENALTY_OF_SLOPES], [count + 1, count]),
        fewest=FEWEST,
        start=first,
    )
    if fitted is None:
        return None
    values, slopes = fitted.reshape(2, count + 1)
    return np.stack([values - middle * slopes, slopes])
