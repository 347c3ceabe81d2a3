"""Threshold of the clustering, learned on photographs of other individuals whose names are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from whale_ray.discovery.clustering import build_tree, cut_tree
from whale_ray.discovery.constraints import Constraints, link_photographs
from whale_ray.discovery.pair_model import fit_pair_model
from whale_ray.discovery.pair_probabilities import compare_photographs

DEFAULT_THRESHOLD = 0.25
"""Threshold where no labels allow to learn one."""
_STEPS = np.linspace(0.02, 0.98, 49)
_DRAWS = 4
_SHARPNESS = 20  # with few individuals the curve is flat and its maximum is chance: the mean of good thresholds
_DOUBT = 20  # individuals that count as much as the default: few say little
_MOST_PHOTOGRAPHS = 1_000  # of one draw


@dataclass(frozen=True)
class LearnedThreshold:
    """A threshold and the adjusted Rand index (ARI) that led to it.

    Attributes:
        threshold: Mean pair probability at which clusters are joined, 0 to 1.
        expected_ari: Mean ARI of the draws at this threshold; None if there was nothing to learn from.
        draws: Number of draws.
    """

    threshold: float
    expected_ari: float | None
    draws: int


def learn_threshold(
    vectors: np.ndarray, individuals: np.ndarray, *, local_scores: np.ndarray | None = None, seed: int = 0
) -> LearnedThreshold:
    """Return a threshold of large expected ARI on drawn halves of the labeled individuals.

    Each draw parts the individuals at random in two halves: the pair model is fitted on one, the other is clustered
    without its names, so animals and sizes of clusters are as among the labels, but the animals are new to the
    model. The threshold is the mean of all, weighted by the 20th power of their mean ARI, and drawn
    towards `DEFAULT_THRESHOLD` if few individuals have two photographs. With too few labels it is that default.

    Args:
        vectors: Vectors of labeled photographs, shape (N, D).
        individuals: Individual of each photograph, shape (N,).
        local_scores: Keypoint score of each photograph against each other, shape (N, N); None without.
        seed: Of the draws.
    """
    generator = np.random.default_rng(seed)
    individuals = np.asarray(individuals, dtype=str)
    curves = []
    for _ in range(_DRAWS):
        names = generator.permutation(np.unique(individuals))
        half = np.isin(individuals, names[: len(names) // 2])
        for fitted, clustered in ((half, ~half), (~half, half)):
            rows = np.flatnonzero(clustered)
            rows = np.sort(generator.permutation(rows)[:_MOST_PHOTOGRAPHS])
            curve = _ari_curve(vectors, individuals, np.flatnonzero(fitted), rows, local_scores)
            if curve is not None:
                curves.append(curve)
    if not curves:
        return LearnedThreshold(DEFAULT_THRESHOLD, None, 0)
    mean = np.mean(curves, axis=0)
    weights = np.maximum(mean / max(mean.max(), 1e-9), 0.0) ** _SHARPNESS
    learned = float(weights @ _STEPS / weights.sum()) if weights.any() else DEFAULT_THRESHOLD
    known = int((np.unique(individuals, return_counts=True)[1] > 1).sum())
    threshold = (known * learned + _DOUBT * DEFAULT_THRESHOLD) / (known + _DOUBT)
    return LearnedThreshold(threshold, float(np.interp(threshold, _STEPS, mean)), len(curves))


def _ari_curve(
    vectors: np.ndarray, individuals: np.ndarray, fitted: np.ndarray, clustered: np.ndarray, local: np.ndarray | None
) -> np.ndarray | None:
    """Return the ARI of the clustered photographs at each threshold; None if the others are too few for a model."""
    from sklearn.metrics import adjusted_rand_score

    def local_of(rows: np.ndarray) -> np.ndarray | None:
        return None if local is None else local[np.ix_(rows, rows)]

    model = fit_pair_model(vectors[fitted], individuals[fitted], local_scores=local_of(fitted))
    if model is None or len(clustered) < 2 or len(np.unique(individuals[clustered])) in (1, len(clustered)):
        return None
    probabilities = compare_photographs(vectors[clustered], model, local_scores=local_of(clustered))
    tree = build_tree(np.asarray(probabilities.matrix), link_photographs(Constraints(), len(clustered)))
    return np.array([adjusted_rand_score(individuals[clustered], cut_tree(tree, step)) for step in _STEPS])
