"""Population size: estimates from few answered pairs."""

from __future__ import annotations

import numpy as np
import pytest

from whale_ray.discovery.clustering import cluster_photographs
from whale_ray.discovery.constraints import Constraints
from whale_ray.discovery.pair_model import fit_pair_model
from whale_ray.discovery.pair_probabilities import PairProbabilities, compare_photographs
from whale_ray.discovery.population_size import (
    FEWEST_DRAWS,
    PopulationEstimate,
    PopulationSample,
    draw_population_sample,
    estimate_population,
)


def drawn_animals(animals: int, seed: int, *, noise: float) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    individuals = np.repeat(np.arange(animals), generator.geometric(0.3, animals))
    centers = generator.normal(size=(animals, 32))
    return centers[individuals] + noise * generator.normal(size=(len(individuals), 32)), individuals.astype(str)


def answered(sample: PopulationSample, individuals: np.ndarray) -> Constraints:
    """Answer all questions of a sample."""
    constraints = Constraints()
    while pairs := sample.questions(constraints, count=len(individuals)):
        same = tuple(pair for pair in pairs if individuals[pair[0]] == individuals[pair[1]])
        different = tuple(pair for pair in pairs if individuals[pair[0]] != individuals[pair[1]])
        constraints = Constraints((*constraints.same, *same), (*constraints.different, *different))
    return constraints


def estimated(probabilities: PairProbabilities, individuals: np.ndarray, seed: int) -> PopulationEstimate:
    labels = cluster_photographs(probabilities, threshold=0.25)
    sample = draw_population_sample(probabilities, labels, seed=seed)
    found = estimate_population(sample, answered(sample, individuals))
    assert found is not None
    return found


@pytest.mark.parametrize("noise", [0.7, 1.2], ids=["clear photographs", "poor photographs"])
def test_the_interval_covers_the_truth_in_most_runs(noise: float) -> None:
    model = fit_pair_model(*drawn_animals(60, 0, noise=noise))
    assert model is not None
    covered, errors = 0, []
    for seed in range(8):
        vectors, individuals = drawn_animals(60, seed + 1, noise=noise)
        truth = len(np.unique(individuals))
        found = estimated(compare_photographs(vectors, model), individuals, seed)
        covered += found.low <= truth <= found.high
        errors.append(found.count / truth - 1)
        assert found.low <= found.count <= found.high
        assert found.pairs < 1000
    assert covered >= 6
    assert abs(np.mean(errors)) < 0.25


@pytest.mark.parametrize("animals", [1, 30], ids=["one animal", "every photograph another animal"])
def test_extreme_numbers_of_animals_are_found(animals: int) -> None:
    individuals = np.arange(30) % animals
    matrix = np.where(individuals[:, None] == individuals[None, :], 0.6, 0.1).astype(np.float32)
    np.fill_diagonal(matrix, 0.0)
    found = estimated(PairProbabilities(matrix), individuals, 0)
    assert found.low <= animals <= found.high
    assert found.count == pytest.approx(animals, rel=0.15, abs=2.0)


def test_the_same_arguments_draw_the_same_sample_and_a_question_is_undecided() -> None:
    vectors, individuals = drawn_animals(30, 0, noise=1.0)
    model = fit_pair_model(vectors, individuals)
    assert model is not None
    probabilities = compare_photographs(vectors, model)
    labels = cluster_photographs(probabilities, threshold=0.25)
    sample, again = (draw_population_sample(probabilities, labels, seed=3) for _ in range(2))
    assert sample.draws == again.draws
    first = sample.questions(Constraints(), count=5)
    assert len(first) == 5
    assert set(first).isdisjoint(sample.questions(Constraints(different=tuple(first)), count=50))


def test_too_few_settled_draws_give_no_estimate() -> None:
    vectors, individuals = drawn_animals(30, 0, noise=1.0)
    model = fit_pair_model(vectors, individuals)
    assert model is not None
    probabilities = compare_photographs(vectors, model)
    sample = draw_population_sample(probabilities, np.arange(len(vectors)), draws=FEWEST_DRAWS - 1)
    assert estimate_population(sample, Constraints()) is None
    assert estimate_population(sample, answered(sample, individuals)) is None


@pytest.mark.parametrize("count", [0, 1])
def test_no_photograph_and_one_photograph_are_no_trouble(count: int) -> None:
    probabilities = PairProbabilities(np.zeros((count, count), dtype=np.float32))
    sample = draw_population_sample(probabilities, np.zeros(count, dtype=np.int64))
    assert sample.questions(Constraints(), count=5) == []
    found = estimate_population(sample, Constraints())
    assert (found is None) if not count else (found is not None and found.count == 1)
