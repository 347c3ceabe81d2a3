"""Threshold of the clustering, learned on labels of other individuals."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from whale_ray.discovery.cluster_threshold import DEFAULT_THRESHOLD, learn_threshold
from whale_ray.discovery.clustering import cluster_photographs
from whale_ray.discovery.pair_model import fit_pair_model
from whale_ray.discovery.pair_probabilities import compare_photographs


def drawn_animals(animals: int, seed: int, *, noise: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors of one to several photographs per animal, and the animals."""
    generator = np.random.default_rng(seed)
    individuals = np.repeat(np.arange(animals), generator.geometric(0.3, animals))
    centers = generator.normal(size=(animals, 32))
    return centers[individuals] + noise * generator.normal(size=(len(individuals), 32)), individuals.astype(str)


@pytest.mark.integration
def test_the_threshold_of_some_individuals_is_nearly_the_best_of_others() -> None:
    vectors, individuals = drawn_animals(40, 0)
    learned, model = learn_threshold(vectors, individuals), fit_pair_model(vectors, individuals)
    assert model is not None
    assert learned.draws > 0
    others, hidden = drawn_animals(50, 1)
    probabilities = compare_photographs(others, model)

    def ari(threshold: float) -> float:
        return float(adjusted_rand_score(hidden, cluster_photographs(probabilities, threshold=threshold)))

    assert ari(learned.threshold) > max(ari(step) for step in np.linspace(0.05, 0.95, 19)) - 0.1
    assert learned.expected_ari == pytest.approx(ari(learned.threshold), abs=0.2)
    assert learn_threshold(vectors, individuals) == learned


@pytest.mark.parametrize(
    "individuals",
    [[], ["a"] * 12, [str(number) for number in range(12)], ["a"] * 6 + ["b"] * 6],
    ids=["no labels", "one individual", "no two photographs of an individual", "two individuals"],
)
def test_too_few_labels_give_the_default_threshold(individuals: list[str]) -> None:
    vectors = np.random.default_rng(0).normal(size=(len(individuals), 8))
    learned = learn_threshold(vectors, np.array(individuals, dtype=str))
    assert learned.threshold == DEFAULT_THRESHOLD
    assert learned.expected_ari is None
