"""From cosines to probabilities: that a candidate is right, and that the animal is new.

Two logistic regressions (Platt, 1999) on what a ranking says: a candidate's cosine; its lead, which is how far that
cosine is above the largest of the other first candidates; and whether it is the first. Knows arrays, no names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

CANDIDATES = 5
_PENALTY = 1e-3  # keeps weights finite where a cosine parts right from wrong without a fault
_FEWEST = 10  # outcomes of the rarer kind below which there is nothing to fit


@dataclass(frozen=True)
class Logistic:
    """A probability 1 / (1 + exp(-z)), z the sum of these weights times 1, cosine, lead and 1 for the first."""

    intercept: float
    cosine: float
    lead: float
    first: float

    def probability(self, cosines: np.ndarray) -> np.ndarray:
        """The probability of each candidate, (Q, R) from its ranking's cosines (Q, R); NaN stays."""
        logits = self.intercept + self.cosine * cosines + self.lead * leads(cosines)
        logits[:, :1] += self.first
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logits, -700.0, 700.0))))


@dataclass(frozen=True)
class Calibration:
    """What turns a ranking's cosines into probabilities; a part is None where there was too little to fit it by."""

    match: Logistic | None
    new: Logistic | None

    def of_match(self, cosines: np.ndarray) -> np.ndarray:
        """The probability that each candidate is the individual: (Q, R) from its ranking's cosines (Q, R)."""
        return _apply(self.match, cosines)

    def of_new(self, cosines: np.ndarray) -> np.ndarray:
        """The probability that the animal is in no gallery: (Q,) from cosines (Q, R)."""
        return _apply(self.new, cosines)[:, 0] if cosines.shape[1] else np.full(len(cosines), np.nan)

    def written(self) -> dict[str, Any]:
        """As JSON; `read_calibration` reads it."""
        return asdict(self)


def read_calibration(written: Mapping[str, Any] | None) -> Calibration:
    """The calibration that `Calibration.written` gave; None has no probabilities."""
    parts = {name: (written or {}).get(name) for name in ("match", "new")}
    return Calibration(**{name: None if part is None else Logistic(**part) for name, part in parts.items()})


def leads(cosines: np.ndarray) -> np.ndarray:
    """How far each cosine (Q, R) is above the largest of the other first candidates; 0 where there is no other.

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


def fit_calibration(cosines: np.ndarray, ranks: np.ndarray, new: np.ndarray) -> Calibration:
    """The calibration of Q answered queries.

    cosines: (Q, R), of the ranked candidates, NaN where there are no more. ranks: (Q,), of the right one, 0 for none.
    new: bool (Q,), the animal is in no gallery. Probabilities hold where new animals are as frequent as here.
    """
    shown = cosines[:, :CANDIDATES]
    there = ~np.isnan(shown)
    places = np.broadcast_to(np.arange(1, shown.shape[1] + 1), shown.shape)
    features = np.stack([shown, leads(shown), places == 1], axis=2)
    match = _fit(features[there], (ranks[:, None] == places)[there])
    first = there & (places == 1)
    return Calibration(match, _fit(features[first], np.broadcast_to(new[:, None], shown.shape)[first]))


def _fit(features: np.ndarray, outcomes: np.ndarray) -> Logistic | None:
    """features: (N, 3), cosine, lead and first. outcomes: bool (N,)."""
    from sklearn.linear_model import LogisticRegression

    if min(outcomes.sum(), (~outcomes).sum()) < _FEWEST:
        return None
    middle, spread = features.mean(axis=0), features.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    model = LogisticRegression(C=1.0 / _PENALTY).fit((features - middle) / spread, outcomes)
    weights = model.coef_[0] / spread
    return Logistic(float(model.intercept_[0] - weights @ middle), *map(float, weights))


def _apply(part: Logistic | None, cosines: np.ndarray) -> np.ndarray:
    return np.full(cosines.shape, np.nan) if part is None else part.probability(cosines)


def reliability(probabilities: np.ndarray, outcomes: np.ndarray, *, bins: int = 10) -> list[dict[str, float]]:
    """The reliability curve: in `bins` groups of equally many by rising probability, mean said, share that happened."""
    given = np.flatnonzero(~np.isnan(probabilities))
    order = given[np.argsort(probabilities[given], kind="stable")]
    return [
        {"said": float(probabilities[part].mean()), "happened": float(outcomes[part].mean())}
        for part in np.array_split(order, min(bins, max(1, len(order) // 10)))
        if len(part)
    ]
