"""Decision between known and new: the calibrated probability at an assumed share of new animals, above one half.

A probability p that was fitted where a share s of the queries is new becomes, where the share is t, the probability
with the odds p/(1 - p) · (1 - s)/s · t/(1 - t) (Saerens, Latinne and Decaestecker, Neural Computation 2002).
Probability and decision agree by construction. The error as a function of t is a cost curve (Drummond and Holte,
Machine Learning 2006).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

CURVE_SHARES: Final = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of new animals at which the expected error is stated."""


@dataclass(frozen=True)
class DecisionRule:
    """When an animal is decided as new.

    Attributes:
        rule: `balanced`: as if half of the animals were new, which weighs known and new alike; `cost`: fewest errors at
            `new_share`; `map@5`: by the threshold that maximizes map@5.
        new_share: Assumed share of new animals, between 0 and 1; None for the measured one. Used by `cost`.
    """

    rule: str = "balanced"
    new_share: float | None = None

    def at(self, measured_share: float) -> Decision | None:
        """Return the decision of a calibration fitted where this share of the queries is new.

        None if the threshold decides: by rule, or since nothing or everything is new.
        """
        if self.rule == "map@5" or not 0.0 < measured_share < 1.0:
            return None
        assumed = 0.5 if self.rule == "balanced" else self.new_share or measured_share
        return Decision(self.rule, float(assumed), float(measured_share))


BALANCED: Final = DecisionRule()


@dataclass(frozen=True)
class Decision:
    """A decision by probability.

    Attributes:
        rule: Rule that chose the assumed share.
        assumed_share: Share of new animals that probabilities and decisions hold for.
        measured_share: Share of new animals among the queries of the calibration.
    """

    rule: str
    assumed_share: float
    measured_share: float

    def of_new(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the probabilities of new, shape (Q,), at the assumed share; NaN stays NaN."""
        return shift_share(probabilities, self.measured_share, self.assumed_share)

    def of_match(self, matches: np.ndarray, new: np.ndarray) -> np.ndarray:
        """Return the probabilities of candidates at the assumed share, shape (Q, R).

        They are scaled like the probability that the animal is known.

        Args:
            matches: Probabilities at the measured share, shape (Q, R).
            new: Probabilities of new at the measured share, shape (Q,).
        """
        known = np.clip(1.0 - new, 1e-12, None)
        scale = np.where(np.isnan(new), 1.0, (1.0 - self.of_new(new)) / known)
        return np.asarray(np.clip(matches * scale[:, None], 0.0, 1.0))

    def written(self) -> dict[str, Any]:
        """As JSON; `read_decision` reads it."""
        return asdict(self)


def read_decision(written: Mapping[str, Any] | None) -> Decision | None:
    """Return the decision that `Decision.written` wrote; None for None."""
    return None if written is None else Decision(**written)


def odds_ratio(measured: float, assumed: float) -> float:
    """Return the factor by which the odds of an outcome grow where its share is `assumed`, not `measured`.

    Args:
        measured: Share, between 0 and 1, excluded.
        assumed: Share, likewise.
    """
    return (1.0 - measured) / measured * assumed / (1.0 - assumed)


def shift_share(probabilities: np.ndarray, measured: float, assumed: float) -> np.ndarray:
    """Return probabilities of an outcome of share `measured`, as they are where its share is `assumed`.

    >>> shift_share(np.array([0.2, 0.5]), 0.2, 0.5).round(6).tolist()
    [0.5, 0.8]

    Args:
        probabilities: Any shape.
        measured: Share, between 0 and 1, excluded.
        assumed: Share, likewise.
    """
    shifted = probabilities * odds_ratio(measured, assumed)
    return np.asarray(shifted / (shifted + 1.0 - probabilities))


def expected_errors(new: np.ndarray, *, right: np.ndarray, known: np.ndarray) -> list[dict[str, float]]:
    """Return the expected share of wrong answers at each of `CURVE_SHARES`; empty without known or new queries.

    Args:
        new: Probability of new at the share of these queries, shape (Q,).
        right: The first candidate is right, bool, shape (Q,).
        known: bool, shape (Q,); the others are new.

    Returns:
        Rows of `new_share`, `error` of deciding at that share, `known` and `new`, its error on each kind, and
        `trivial`, the smaller error of always deciding new or trusting every first candidate.
    """
    if not known.any() or known.all() or np.isnan(new).any():
        return []
    measured = float((~known).mean())
    unrecognised = float((~right[known]).mean())
    rows = []
    for share in CURVE_SHARES:
        says_new = shift_share(new, measured, share) >= 0.5
        of_known, of_new = float((says_new | ~right)[known].mean()), float((~says_new)[~known].mean())
        trivial = min(1.0 - share, (1.0 - share) * unrecognised + share)
        error = (1.0 - share) * of_known + share * of_new
        rows.append({"new_share": share, "error": error, "known": of_known, "new": of_new, "trivial": trivial})
    return rows
