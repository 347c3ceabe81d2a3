"""Pair probabilities: calibration on other individuals, candidates of large sets, degenerate input."""

from __future__ import annotations

import numpy as np
import pytest

from whale_ray.discovery import pair_probabilities
from whale_ray.discovery.pair_features import candidate_features, dense_features
from whale_ray.discovery.pair_model import PairModel, default_pair_model, fit_pair_model
from whale_ray.discovery.pair_probabilities import compare_photographs


def drawn_animals(animals: int, seed: int, *, noise: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors of one to several photographs per animal, and the animals."""
    generator = np.random.default_rng(seed)
    individuals = np.repeat(np.arange(animals), generator.geometric(0.3, animals))
    centers = generator.normal(size=(animals, 32))
    return centers[individuals] + noise * generator.normal(size=(len(individuals), 32)), individuals.astype(str)


@pytest.fixture(scope="module")
def model() -> PairModel:
    fitted = fit_pair_model(*drawn_animals(80, 0))
    assert fitted is not None
    return fitted


@pytest.mark.parametrize("animals", [30, 80, 160])
def test_probabilities_of_other_animals_are_calibrated_at_any_number_of_them(model: PairModel, animals: int) -> None:
    vectors, individuals = drawn_animals(animals, 1)
    matrix = np.asarray(compare_photographs(vectors, model).matrix)
    upper = np.triu_indices(len(vectors), 1)
    same, found = (individuals[:, None] == individuals[None, :])[upper], matrix[upper]
    assert found.sum() == pytest.approx(same.sum(), rel=0.3)
    sure = found > 0.9
    assert same[sure].mean() > 0.8
    assert same[found < 0.01].mean() < 0.01


def test_probabilities_are_symmetric_without_a_diagonal(model: PairModel) -> None:
    matrix = np.asarray(compare_photographs(drawn_animals(20, 2)[0], model).matrix)
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, matrix.T)
    assert not matrix.diagonal().any()


def test_candidate_features_are_those_of_all_pairs(model: PairModel, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, _ = drawn_animals(25, 3)
    every = dense_features(vectors)
    first, second, some = candidate_features(vectors, len(vectors) - 1)
    assert len(first) == len(vectors) * (len(vectors) - 1) // 2
    for name, values in some.items():
        np.testing.assert_allclose(values, every[name][first, second], atol=1e-5, err_msg=name)

    dense = compare_photographs(vectors, model)
    monkeypatch.setattr(pair_probabilities, "DENSE_UP_TO", 10)
    sparse = compare_photographs(vectors, model)
    assert not sparse.is_dense
    first, second, values = sparse.candidates(0.5)
    np.testing.assert_array_equal(dense.candidates(0.5)[0], first)
    np.testing.assert_allclose(dense.candidates(0.5)[2], values, atol=1e-4)
    np.testing.assert_allclose(sparse.row(3), dense.row(3), atol=1e-4)
    np.testing.assert_allclose(
        sparse.block(np.array([1, 2]), np.array([4, 5, 6])),
        dense.block(np.array([1, 2]), np.array([4, 5, 6])),
        atol=1e-4,
    )


def test_keypoint_scores_count_when_the_model_was_fitted_with_them() -> None:
    vectors, individuals = drawn_animals(40, 4, noise=3.0)
    scores = (individuals[:, None] == individuals[None, :]) * np.random.default_rng(0).random((len(vectors),) * 2)
    fitted = fit_pair_model(vectors, individuals, local_scores=scores)
    assert fitted is not None
    assert fitted.weights["local"] > 0
    matrix = np.asarray(compare_photographs(vectors, fitted, local_scores=scores).matrix)
    assert matrix[individuals[:, None] == individuals[None, :]].mean() > 10 * matrix[scores == 0].mean()
    with pytest.raises(ValueError, match="the pair model uses keypoint scores, but got none"):
        compare_photographs(vectors, fitted)


@pytest.mark.parametrize(
    "vectors",
    [np.zeros((0, 8)), np.ones((1, 8)), np.ones((2, 8)), np.ones((30, 8)), np.zeros((5, 8))],
    ids=["none", "one", "two", "identical", "zero"],
)
def test_degenerate_photographs_have_probabilities(vectors: np.ndarray, model: PairModel) -> None:
    for used in (model, default_pair_model(vectors)):
        matrix = np.asarray(compare_photographs(vectors, used).matrix)
        assert matrix.shape == (len(vectors),) * 2
        assert np.isfinite(matrix).all()
        assert matrix.min(initial=0.0) >= 0.0
        assert matrix.max(initial=0.0) <= 1.0


@pytest.mark.parametrize(
    "individuals",
    [[], ["a"] * 30, [str(number) for number in range(30)]],
    ids=["no labels", "one individual", "no two photographs of an individual"],
)
def test_without_pairs_of_both_kinds_there_is_no_fitted_model(individuals: list[str]) -> None:
    vectors = np.random.default_rng(0).normal(size=(len(individuals), 8))
    assert fit_pair_model(vectors, np.array(individuals)) is None


def test_the_default_model_says_so_and_ranks_pairs(model: PairModel) -> None:
    vectors, individuals = drawn_animals(40, 5)
    default = default_pair_model(vectors)
    assert default.is_default
    assert not model.is_default
    matrix = np.asarray(compare_photographs(vectors, default).matrix)
    same = individuals[:, None] == individuals[None, :]
    np.fill_diagonal(same, False)
    assert matrix[same].mean() > 5 * matrix[~same].mean()


def test_a_written_model_is_read_again(model: PairModel) -> None:
    assert PairModel(**model.written()) == model
