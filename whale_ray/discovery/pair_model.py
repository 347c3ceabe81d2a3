"""Pair model: the probability that two photographs show the same animal, by logistic regression on pair features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from whale_ray.discovery.pair_features import FEATURES, LOCAL_FEATURE, dense_features
from whale_ray.retrieval.search.gallery_index import normalize_rows

FEWEST_PAIRS = 10
"""Pairs of the same animal below which no model is fitted."""
MATES = 2.0
"""Other photographs of the same animal that a photograph has on average, where no labels tell it."""
_PENALTY = 1e-3
_MOST_DIFFERENT = 50_000  # pairs of two animals that a fit uses
_DEFAULT = (-6.6, 3.5)  # intercept and slope on cosines in standard deviations: docs/experiments/discovery.md
_DEFAULT_WITH_KEYPOINTS = (-5.5, 1.8, 4.0)  # and weight of keypoints; intercept for the share _DEFAULT_SHARE
_DEFAULT_SHARE = 0.005


@dataclass(frozen=True)
class PairModel:
    """A probability 1 / (1 + exp(-z)), where z is linear in the features of a pair.

    Attributes:
        intercept: Of z, where a share `share` of all pairs shows the same animal.
        weights: Weight of each feature in z.
        share: Share of same pairs among the pairs of the fit.
        mates: Other photographs of the same animal that a photograph had on average.
        same_pairs: Number of same pairs of the fit; 0 if the model was not fitted.
    """

    intercept: float
    weights: Mapping[str, float]
    share: float
    mates: float
    same_pairs: int

    @property
    def is_default(self) -> bool:
        """True if the model was fitted on no labels: its probabilities are a guess."""
        return self.same_pairs == 0

    def log_odds(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the log-odds of pairs from their features, float64, of the shape of one feature."""
        total = sum(weight * np.asarray(features[name], dtype=np.float64) for name, weight in self.weights.items())
        return np.asarray(self.intercept + total)

    def for_photographs(self, count: int) -> PairModel:
        """Return the model for `count` photographs whose animals have as many photographs each as those of the fit."""
        return self.at_share(min(self.mates / max(count - 1, 1), 0.5))

    def at_share(self, share: float) -> PairModel:
        """Return the model where a share, between 0 and 1 (excluded), of the pairs shows the same animal."""
        shift = np.log(share / (1 - share)) - np.log(self.share / (1 - self.share))
        return replace(self, intercept=self.intercept + float(shift), share=share)

    def written(self) -> dict[str, Any]:
        """As JSON; `PairModel(**written)` reads it."""
        return asdict(self) | {"weights": dict(self.weights)}


def fit_pair_model(
    vectors: np.ndarray, individuals: np.ndarray, *, local_scores: np.ndarray | None = None, seed: int = 0
) -> PairModel | None:
    """Return the model fitted on all pairs of named photographs; None below `FEWEST_PAIRS` pairs of either kind.

    The encoder and the whitening must not have been trained on these animals: vectors of the training set part the
    animals far better than those of other animals, and the probabilities come out much too sure.

    Args:
        vectors: Vectors of the photographs, shape (N, D).
        individuals: Individual of each photograph, shape (N,). Leave out photographs of unknown animals.
        local_scores: Keypoint score of each photograph against each other, shape (N, N); None without.
        seed: Of the sample of different pairs.
    """
    individuals = np.asarray(individuals, dtype=str)
    upper = np.triu_indices(len(individuals), 1)
    same = individuals[upper[0]] == individuals[upper[1]]
    if min(same.sum(), (~same).sum()) < FEWEST_PAIRS:
        return None
    kept = np.flatnonzero(~same)
    if len(kept) > _MOST_DIFFERENT:
        kept = np.random.default_rng(seed).choice(kept, _MOST_DIFFERENT, replace=False)
    weight = (~same).sum() / len(kept)
    kept = np.sort(np.concatenate([np.flatnonzero(same), kept]))
    features = dense_features(vectors, local_scores)
    names = [*FEATURES, *([LOCAL_FEATURE] if local_scores is not None else [])]
    table = np.stack([features[name][upper][kept] for name in names], axis=1).astype(np.float64)
    intercept, weights = _fit(table, same[kept], np.where(same[kept], 1.0, weight))
    return PairModel(
        intercept=intercept,
        weights=dict(zip(names, weights.tolist(), strict=True)),
        share=float(same.mean()),
        mates=float(2 * same.sum() / len(individuals)),
        same_pairs=int(same.sum()),
    )


def _fit(table: np.ndarray, same: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """Return intercept and weights of a logistic regression on standardized features, for the raw features."""
    from sklearn.linear_model import LogisticRegression

    middle, spread = table.mean(axis=0), table.std(axis=0)
    spread[spread == 0] = 1.0
    model = LogisticRegression(C=1.0 / _PENALTY, max_iter=1000)
    model.fit((table - middle) / spread, same, sample_weight=weights)
    slopes = model.coef_[0] / spread
    return float(model.intercept_[0] - slopes @ middle), np.asarray(slopes)


def default_pair_model(
    vectors: np.ndarray, *, local_scores: np.ndarray | None = None, mates: float = MATES
) -> PairModel:
    """Return a model for photographs without any labels; `is_default` says that its probabilities are a guess.

    It measures a cosine in standard deviations of all cosines between the photographs.

    Args:
        vectors: Vectors of the photographs, shape (N, D).
        local_scores: Keypoint score of each photograph against each other, shape (N, N); None without.
        mates: Other photographs of the same animal that a photograph has on average.
    """
    precise = normalize_rows(vectors)
    sample = precise[np.random.default_rng(0).permutation(len(precise))[:1000]]
    cosines = (sample @ sample.T)[np.triu_indices(len(sample), 1)].astype(np.float64)
    middle, spread = (cosines.mean(), cosines.std()) if len(cosines) else (0.0, 0.0)
    share = min(max(mates / max(len(precise) - 1, 1), 1e-6), 0.5)
    intercept, slope = _DEFAULT if local_scores is None else _DEFAULT_WITH_KEYPOINTS[:2]
    slope /= max(float(spread), 0.02)
    intercept -= slope * float(middle)
    if local_scores is None:
        return PairModel(intercept, {"cosine": slope}, share, mates, 0)
    weights = {"cosine": slope, LOCAL_FEATURE: _DEFAULT_WITH_KEYPOINTS[2]}
    return PairModel(intercept, weights, _DEFAULT_SHARE, mates, 0).at_share(share)
