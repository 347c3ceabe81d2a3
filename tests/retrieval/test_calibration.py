import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from sklearn.linear_model import LogisticRegression

from whale_ray.retrieval.evaluation.calibration import (
    Calibration,
    LogisticModel,
    fit_calibration,
    read_calibration,
)
from whale_ray.retrieval.evaluation.calibration_features import candidate_features, leads
from whale_ray.retrieval.evaluation.decisions import Decision
from whale_ray.retrieval.evaluation.encounters.answer_probabilities import answer_probabilities
from whale_ray.retrieval.evaluation.encounters.encounter_calibration import EncounterCalibration
from whale_ray.retrieval.evaluation.open_set_metrics import auroc, reliability
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


COEFFICIENTS = st.floats(-30, 30)
MODELS = st.builds(LogisticModel, COEFFICIENTS, COEFFICIENTS, COEFFICIENTS, COEFFICIENTS)
CALIBRATIONS = st.builds(Calibration, MODELS, MODELS)
COSINES = arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=8), elements=st.floats(-1, 1, width=32))


@settings(deadline=None, max_examples=200)
@given(
    COSINES,
    st.integers(0, 8),
    CALIBRATIONS,
    st.builds(EncounterCalibration, CALIBRATIONS, COEFFICIENTS, COEFFICIENTS, st.none()),
    st.sampled_from([None, Decision("balanced", 0.5, 0.2), Decision("cost", 0.01, 0.9)]),
    st.sampled_from([1, 3]),
)
def test_no_candidate_is_more_probable_than_one_before_it(cosines, present, single, encounters, decision, photographs):
    cosines[:, present:] = np.nan
    found, new = answer_probabilities(
        cosines,
        strangers=np.zeros(len(cosines)),
        species=[""] * len(cosines),
        photographs=[photographs] * len(cosines),
        single=single,
        encounters=encounters,
        decision=decision,
    )
    assert (np.isnan(found) == np.isnan(cosines)).all()
    shown = found[:, :present]
    assert (np.diff(shown, axis=1) <= 0).all()
    assert ((shown >= 0) & (shown <= 1)).all()
    assert not (shown + new[:, None] > 1 + 1e-9).any()  # the animal is not both new and known


def test_the_first_candidate_keeps_its_probability_where_a_later_one_has_a_larger_cosine():
    model = LogisticModel(-1.0, 2.0, 0.0, 0.0)
    cosines = np.array([[0.5, 0.9, 0.1, np.nan]])
    predicted, alone = Calibration(model, None).of_match(cosines), model.probability(cosines)
    assert predicted[0, [0, 2]].tolist() == alone[0, [0, 2]].tolist()
    assert predicted[0, 1] == alone[0, 0] < alone[0, 1]


def test_the_first_of_two_nearly_equal_candidates_is_at_least_as_probable():
    """Answers in which the first of nearly equal candidates is right less often: a fit of all features says so."""
    random = np.random.default_rng(0)
    cosines = np.sort(random.uniform(0.2, 0.9, (4000, 5)), axis=1)[:, ::-1]
    gap = cosines[:, 0] - cosines[:, 1]
    ranks = np.where(random.random(4000) < np.clip(6 * gap, 0.2, 0.9), 1, 2)
    features, _ = candidate_features(cosines)
    rows, right = features.reshape(-1, 3), (ranks[:, None] == np.arange(1, 6)).ravel()
    assert fit_logistic(rows, right)[3] < 0
    fitted = fit_calibration(cosines, ranks, np.zeros(4000, dtype=bool)).match
    assert fitted.first == 0.0
    assert [fitted.intercept, fitted.cosine, fitted.lead] == pytest.approx(fit_logistic(rows[:, :2], right).tolist())
    assert fitted.probability(np.array([[0.6, 0.59, 0.2]]))[0, :2].argmax() == 0


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


def with_strangers(queries=4000, seed=0):
    """Answers of which the last half is new, at the same cosines; strangers come nearer to new animals."""
    random = np.random.default_rng(seed)
    cosines = np.sort(random.uniform(0.2, 0.9, (queries, 5)), axis=1)[:, ::-1]
    new = np.arange(queries) >= queries // 2
    strangers = 0.5 + 0.1 * new + random.normal(0.0, 0.1, queries)
    return cosines, np.where(new, 0, 1), new, strangers


def test_strangers_separate_new_animals_that_no_cosine_separates():
    cosines, ranks, new, strangers = with_strangers()
    plain, fitted = (fit_calibration(cosines, ranks, new, strangers=each) for each in (None, strangers))
    cosines, ranks, new, strangers = with_strangers(seed=1)
    assert auroc(plain.of_new(cosines), new)[0] == pytest.approx(0.5, abs=0.03)
    predicted = fitted.of_new(cosines, strangers=strangers)
    assert auroc(predicted, new)[0] == pytest.approx(auroc(strangers, new)[0], abs=0.01)
    for group in reliability(predicted, new):
        assert group["said"] == pytest.approx(group["happened"], abs=0.09)
    assert fitted.match == plain.match
    assert fitted.has_strangers
    assert not plain.has_strangers


def test_each_species_weighs_strangers_as_well():
    cosines, ranks, new, strangers = with_strangers()
    species = np.where(np.arange(len(new)) % 2, "blue", "fin")
    turned = np.where(species == "fin", -strangers, strangers)
    fitted = fit_calibration(cosines, ranks, new, species, strangers=turned)
    assert fitted.new_of_species["blue"].strangers > 5 > -5 > fitted.new_of_species["fin"].strangers
    assert read_calibration(json.loads(json.dumps(fitted.written()))) == fitted
    predicted = fitted.of_new(cosines, species, strangers=turned)
    assert auroc(predicted, new)[0] == pytest.approx(auroc(strangers, new)[0], abs=0.01)


def test_strangers_that_are_missing_are_left_out_of_the_fit_and_give_no_probability():
    cosines, ranks, new, strangers = with_strangers(400)
    some = np.where(np.arange(400) == 7, np.nan, strangers)
    assert fit_calibration(cosines, ranks, new, strangers=some) == fit_calibration(cosines, ranks, new)
    assert "strangers" not in fit_calibration(cosines, ranks, new, strangers=some).written()["new"]
    fitted = fit_calibration(cosines, ranks, new, strangers=strangers)
    assert np.isnan(fitted.of_new(cosines)).all()
    assert np.isfinite(fitted.of_match(cosines)).all()


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
