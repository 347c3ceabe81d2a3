"""Calibration: from cosines to the probabilities that a candidate is right and that the animal is new.

Two logistic regressions (Platt, 1999) on a candidate's cosine, its lead over the largest of the other first candidates,
and whether it is the first. With a cohort of unknown animals, the second also depends on how near strangers come to the
query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from whale_ray.retrieval.evaluation.calibration_features import candidate_features, leads, with_strangers
from whale_ray.retrieval.evaluation.decisions import odds_ratio
from whale_ray.retrieval.logistic_regression import fit_logistic


@dataclass(frozen=True)
class LogisticModel:
    """A probability 1 / (1 + exp(-z)), where z is linear in cosine, lead and an indicator of the first candidate.

    Attributes:
        intercept: z without them.
        cosine: Weight of the cosine.
        lead: Weight of the lead.
        first: Weight of the indicator.
        strangers: Weight of the cosine of strangers; None if they have no part in it.
    """

    intercept: float
    cosine: float
    lead: float
    first: float
    strangers: float | None = None

    def probability(self, cosines: np.ndarray, strangers: np.ndarray | None = None) -> np.ndarray:
        """Return the probability of each candidate, shape (Q, R); NaN stays NaN.

        Args:
            cosines: Cosines of the ranked candidates, shape (Q, R).
            strangers: From `stranger_cosines`, shape (Q,); needed if they have a weight.
        """
        logits = self.intercept + self.cosine * cosines + self.lead * leads(cosines)
        logits[:, :1] += self.first
        if self.strangers is not None:
            logits += self.strangers * (np.nan if strangers is None else strangers[:, None])
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logits, -700.0, 700.0))))

    def at_share(self, measured: float, assumed: float) -> LogisticModel:
        """Return the model of an outcome of share `measured` as it is where its share is `assumed`.

        The odds are multiplied: another intercept.

        Args:
            measured: Share, between 0 and 1, excluded.
            assumed: Share, likewise.
        """
        return replace(self, intercept=self.intercept + float(np.log(odds_ratio(measured, assumed))))

    def written(self) -> dict[str, float]:
        """As JSON, without a weight of strangers if there is none."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Calibration:
    """Probabilities from a ranking's cosines; a part is None if there was too little data to fit it.

    Attributes:
        match: Probability that a candidate is right.
        new: Probability that the animal is new.
        new_of_species: The same of each species with enough queries, at the share of new animals of `new`.
    """

    match: LogisticModel | None
    new: LogisticModel | None
    new_of_species: Mapping[str, LogisticModel] = field(default_factory=dict)

    def of_match(self, cosines: np.ndarray) -> np.ndarray:
        """Return the probability that each candidate is the individual, shape (Q, R), from cosines (Q, R).

        It never exceeds that of a candidate before it, also where a vote ranks a smaller cosine first.
        """
        probabilities = _apply(self.match, cosines)
        smallest = np.fmin.accumulate(probabilities, axis=1)
        return np.where(np.isnan(probabilities), np.nan, smallest)

    @property
    def has_strangers(self) -> bool:
        """True if the probability of a new animal depends on how near strangers come."""
        return self.new is not None and self.new.strangers is not None

    def of_new(
        self,
        cosines: np.ndarray,
        species: Sequence[str] | np.ndarray | None = None,
        *,
        strangers: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return the probability that the animal is not in the gallery, shape (Q,).

        Args:
            cosines: Cosines of the ranked candidates, shape (Q, R).
            species: Species of each query, shape (Q,); None if all are unknown.
            strangers: From `stranger_cosines`, shape (Q,); needed if `has_strangers`.
        """
        if not cosines.shape[1]:
            return np.full(len(cosines), np.nan)
        probabilities = _apply(self.new, cosines, strangers)[:, 0]
        for name, model in self.new_of_species.items() if species is not None else ():
            own = np.asarray(species, dtype=str) == name
            probabilities[own] = _apply(model, cosines[own], None if strangers is None else strangers[own])[:, 0]
        return probabilities

    def of_answers(
        self,
        cosines: np.ndarray,
        species: Sequence[str] | np.ndarray | None = None,
        *,
        strangers: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return `of_match`, at most the probability that the animal is not new, and `of_new`.

        Both are fitted apart, so that their sum can exceed 1 where strangers come near.

        Args:
            cosines: As in `of_new`.
            species: As in `of_new`.
            strangers: As in `of_new`.
        """
        new = self.of_new(cosines, species, strangers=strangers)
        return np.minimum(self.of_match(cosines), np.where(np.isnan(new), np.inf, 1.0 - new)[:, None]), new

    def written(self) -> dict[str, Any]:
        """As JSON; `read_calibration` reads it."""
        both = {
            name: None if part is None else part.written() for name, part in (("match", self.match), ("new", self.new))
        }
        own = {name: part.written() for name, part in self.new_of_species.items()}
        return both | ({"new_of_species": own} if own else {})


def read_calibration(written: Mapping[str, Any] | None) -> Calibration:
    """Return the calibration that `Calibration.written` wrote; None gives a calibration without probabilities."""
    written = written or {}
    match, new = (None if written.get(name) is None else LogisticModel(**written[name]) for name in ("match", "new"))
    own = written.get("new_of_species", {})
    return Calibration(match, new, {species: LogisticModel(**part) for species, part in own.items()})


def fit_calibration(
    cosines: np.ndarray,
    ranks: np.ndarray,
    new: np.ndarray,
    species: np.ndarray | None = None,
    *,
    strangers: np.ndarray | None = None,
) -> Calibration:
    """Fit the calibration on Q answered queries. Probabilities hold if new animals are as frequent as here.

    Args:
        cosines: Cosines of the ranked candidates, NaN if there are no more, shape (Q, R).
        ranks: Rank of the right candidate, 0 for none, shape (Q,).
        new: Whether the animal is in no gallery, bool, shape (Q,).
        species: Species of each query, "" for unknown, shape (Q,); None if all are unknown.
        strangers: From `stranger_cosines`, shape (Q,); None, or NaN of any query, leaves them out.
    """
    features, there = candidate_features(cosines)
    places = np.broadcast_to(np.arange(1, there.shape[1] + 1), there.shape)
    fitted_match = fit_in_order(features[there], (ranks[:, None] == places)[there])
    match = None if fitted_match is None else LogisticModel(*map(float, fitted_match))
    if not there.shape[1]:
        return Calibration(match, None)
    firsts, answered = with_strangers(features[:, 0], strangers), there[:, 0]
    common = _fit(firsts[answered], new[answered])
    own: dict[str, LogisticModel] = {}
    for name in () if species is None or common is None else sorted({*species.tolist()} - {""}):
        here = answered & (species == name)
        if (fitted := _fit(firsts[here], new[here])) is not None:
            own[name] = fitted.at_share(float(new[here].mean()), float(new[answered].mean()))
    return Calibration(match, common, own)


def fit_in_order(features: np.ndarray, outcomes: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray | None:
    """Fit the probability of a match, in which it is no disadvantage to be the first candidate.

    Cosine and lead say so much that the indicator can come out negative, and the second of two candidates with nearly
    equal cosines would be more probable than the first. The best fit without that has no indicator.

    Args:
        features: Cosine, lead, indicator of the first candidate and further features, shape (N, F).
        outcomes: As in `fit_logistic`.
        weights: As in `fit_logistic`.

    Returns:
        As `fit_logistic`.
    """
    fitted = fit_logistic(features, outcomes, weights)
    if fitted is None or fitted[3] >= 0:
        return fitted
    without = fit_logistic(np.delete(features, 2, axis=1), outcomes, weights)
    return None if without is None else np.insert(without, 3, 0.0)


def _fit(features: np.ndarray, outcomes: np.ndarray) -> LogisticModel | None:
    """Fit on cosine, lead, first and perhaps strangers, (N, 3 or 4), and outcomes, (N,); None with too little data."""
    fitted = fit_logistic(features, outcomes)
    return None if fitted is None else LogisticModel(*map(float, fitted))


def _apply(part: LogisticModel | None, cosines: np.ndarray, strangers: np.ndarray | None = None) -> np.ndarray:
    return np.full(cosines.shape, np.nan) if part is None else part.probability(cosines, strangers)
