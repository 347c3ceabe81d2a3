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
_SAME: Final = 1e-15
"""Scores that differ by less are equal."""


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
    from scipy.optimize import isotonic_regression

    knots, shares, weights = _shares_by_score(scores.astype(np.float64), right, weights)
    shares = np.clip(isotonic_regression(shares, weights=weights).x, _LEAST, 1 - _LEAST)
    bends = np.ones(len(knots), dtype=bool)  # the others are on the line between their neighbors
    bends[1:-1] = (shares[1:-1] != shares[:-2]) | (shares[1:-1] != shares[2:])
    knots, shares = knots[bends], shares[bends]
    return IsotonicCurve(tuple(knots.tolist()), tuple(np.log(shares / (1 - shares)).tolist()))


def _shares_by_score(
    scores: np.ndarray, right: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the distinct scores, ascending, the share of right candidates of each, and their weight; each (C,).

    These are the sums of scikit-learn's `IsotonicRegression`, whose import and checks take longer than the regression.
    """
    # Counts do not depend on the order; the last digits of other sums do.
    order = np.argsort(scores) if weights is None else np.lexsort((right, scores))
    scores, right = scores[order], right[order]
    starts = np.diff(scores, prepend=-np.inf) >= _SAME
    codes = np.cumsum(starts) - 1
    each = np.ones(len(scores)) if weights is None else weights[order]
    sums = np.bincount(codes, each)
    return scores[starts], np.bincount(codes, each * right) / sums, sums


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
