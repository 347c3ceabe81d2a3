import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from whale_ray.retrieval.evaluation.calibration import (
    Calibration,
    fit_calibration,
    leads,
    read_calibration,
    reliability,
)
from whale_ray.retrieval.logistic_regression import fit_logistic


def answers(queries=4000, seed=0, slope=12.0):
    """Rankings whose first candidate is right with a known probability: logistic in its cosine."""
    random = np.random.default_rng(seed)
    cosines = np.sort(random.uniform(0.2, 0.9, (queries, 5)), axis=1)[:, ::-1]
    right = random.random(queries) < 1 / (1 + np.exp(-slope * (cosines[:, 0] - 0.75)))
    return cosines, np.where(right, 1, 0), ~right


def test_fitted_probabilities_equal_those_of_the_simulated_answers():
    cosines, ranks, new = answers()
    calibration = fit_calibration(cosines, ranks, new)
    fresh, fresh_ranks, fresh_new = answers(seed=1)
    for predicted, happened in (
        (calibration.of_match(fresh)[:, 0], fresh_ranks == 1),
        (calibration.of_new(fresh), fresh_new),
    ):
        for group in reliability(predicted, happened):
            assert group["said"] == pytest.approx(group["happened"], abs=0.09)
        assert np.mean((predicted - happened) ** 2) < happened.mean() * (1 - happened.mean())


def test_candidates_beyond_the_first_have_a_probability_of_their_own():
    cosines, ranks, new = answers()
    predicted = fit_calibration(cosines, ranks, new).of_match(np.array([[0.85, 0.5, 0.4, 0.4, 0.3, 0.29, np.nan]]))
    assert predicted.shape == (1, 7)
    assert predicted[0, 0] > 0.5 > predicted[0, 1]
    assert (np.diff(predicted[0, :6]) <= 0).all()
    assert np.isnan(predicted[0, 6])


def test_a_lead_is_over_the_other_first_candidates():
    found = leads(np.array([[0.5, 0.9, 0.7, np.nan, np.nan, 0.2], [0.6, 0.6, 0.1, 0.0, 0.0, 0.0]]))
    assert found[0, [0, 1, 2, 5]].tolist() == pytest.approx([-0.4, 0.2, -0.2, -0.7])
    assert found[1, :2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kind", ["overlapping", "separable", "rare", "one feature is constant"])
@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("penalty", [1e-3, 1.0])
def test_the_coefficients_are_those_of_scikit_learn(kind, is_weighted, penalty):
    random = np.random.default_rng(0)
    features = random.normal(size=(400, 3)) * [0.1, 2.0, 1.0] + [0.5, 0.0, 3.0]
    if kind == "one feature is constant":
        features[:, 2] = 1.0
    noise = {"separable": 0.0, "rare": 0.3}.get(kind, 0.1)
    outcomes = features[:, 0] + noise * random.normal(size=400) > (0.8 if kind == "rare" else 0.5)
    weights = random.uniform(0.5, 3.0, 400) if is_weighted else None
    spread = np.where(features.std(axis=0) > 0, features.std(axis=0), 1.0)
    model = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=10_000)
    model.fit((features - features.mean(axis=0)) / spread, outcomes, sample_weight=weights)
    expected = model.predict_proba((features - features.mean(axis=0)) / spread)
    intercept, *slopes = fit_logistic(features, outcomes, weights, penalty=penalty)
    logits = intercept + features @ slopes
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), expected[:, 1], atol=1e-4)
    similar = fit_logistic(features[::2], outcomes[::2], penalty=penalty, fewest=1)
    again = fit_logistic(features, outcomes, weights, penalty=penalty, start=similar)
    np.testing.assert_allclose(again, [intercept, *slopes], rtol=1e-5, atol=1e-6)


def test_a_calibration_is_read_as_it_was_written():
    calibration = fit_calibration(*answers())
    assert read_calibration(json.loads(json.dumps(calibration.written()))) == calibration
    assert read_calibration(None) == Calibration(None, None)


@pytest.mark.parametrize("kind", ["all right", "all wrong", "few"])
def test_too_few_queries_give_no_probability(kind):
    cosines = answers(30)[0]
    ranks = {"all right": np.ones(30), "all wrong": np.zeros(30), "few": np.arange(30) == 3}[kind].astype(int)
    calibration = fit_calibration(cosines[:, :1], ranks, np.zeros(30, dtype=bool))
    assert calibration == Calibration(None, None)
    assert np.isnan(calibration.of_match(cosines)).all()
    assert np.isnan(calibration.of_new(cosines)).all()


def test_a_gallery_of_one_individual_has_probabilities_from_its_cosine():
    cosines, ranks, new = answers(500)
    calibration = fit_calibration(cosines[:, :1], ranks, new)
    predicted = calibration.of_match(np.array([[0.3], [0.9]]))[:, 0]
    assert 0 <= predicted[0] < predicted[1] <= 1


def test_cosines_that_hardly_differ_still_give_finite_probabilities():
    cosines, ranks, new = answers()
    squeezed = 1 - (1 - cosines) * 1e-4
    predicted, plain = fit_calibration(squeezed, ranks, new).of_match(squeezed), fit_calibration(cosines, ranks, new)
    assert predicted == pytest.approx(plain.of_match(cosines), abs=1e-3)
