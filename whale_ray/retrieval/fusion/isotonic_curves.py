"""Isotonic calibration of scores: monotone curves from a score to the log-odds that a candidate is right.

Zadrozny and Elkan, "Transforming classifier scores into accurate multiclass probability estimates", KDD 2002.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from whale_ray.errors import BundleError

_LEAST: Final = 1e-3
"""Probabilities end here and at one minus this, for 0 and 1 have no log-odds."""


@dataclass(frozen=True)
class IsotonicCurve:
    """Log-odds by score, linear between knots and constant beyond them.

    Attributes:
        scores: Scores of the knots, ascending.
        log_odds: Log-odds at the knots, ascending.
    """

    scores: tuple[float, ...]
    log_odds: tuple[float, ...]

    def __post_init__(self) -> None:
        knots = [np.asarray(values, dtype=np.float64) for values in (self.scores, self.log_odds)]
        if len(knots[0]) != len(knots[1]) or not len(knots[0]) or not np.isfinite(knots).all():
            raise BundleError("a curve has as many finite log-odds as scores, but this one has not. Make it again")
        if any((np.diff(values) < 0).any() for values in knots):
            raise BundleError("the scores and log-odds of a curve ascend, but these do not. Make it again")

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Return the log-odds of scores, float64, of the same shape; NaN stays NaN."""
        return np.asarray(np.interp(scores, self.scores, self.log_odds))


def fit_curve(scores: np.ndarray, right: np.ndarray, weights: np.ndarray | None = None) -> IsotonicCurve:
    """Return the isotonic regression of outcomes on scores.

    Args:
        scores: Scores of candidates, shape (n,), n at least 1.
        right: Whether the candidate is the individual of its query, bool, shape (n,).
        weights: Weight of each candidate, shape (n,); None for equal weights.
    """
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=_LEAST, y_max=1 - _LEAST)
    fitted.fit(scores, right.astype(np.float64), sample_weight=weights)
    shares = np.asarray(fitted.y_thresholds_, dtype=np.float64)
    log_odds = np.log(shares / (1 - shares))
    return IsotonicCurve(tuple(map(float, fitted.X_thresholds_)), tuple(map(float, log_odds)))


def read_curves(written: Mapping[str, Mapping[str, Sequence[Any]]], names: Sequence[str]) -> dict[str, IsotonicCurve]:
    """Return the curves of a fusion model by feature, as `dataclasses.asdict` wrote them.

    Args:
        written: Curves by feature; empty without isotonic calibration.
        names: Features that may have one.

    Raises:
        BundleError: If a curve is damaged or of another feature.
    """
    if unknown := sorted(set(written) - {*names}):
        raise BundleError(
            f"isotonic curves are of {', '.join(names)}, but got {', '.join(unknown)}. Another version made them: run "
            "the sweep again"
        )
    return {
        name: IsotonicCurve(*(tuple(map(float, curve[part])) for part in ("scores", "log_odds")))
        for name, curve in written.items()
    }
