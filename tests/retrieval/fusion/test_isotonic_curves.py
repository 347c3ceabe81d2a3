"""Isotonic curves: their fit, and the choice between them and scores as they are."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression

from whale_ray.retrieval.fusion import cross_fitting
from whale_ray.retrieval.fusion.candidate_features import SCORES, candidate_features
from whale_ray.retrieval.fusion.cross_fitting import FEWEST_FOR_CURVES, cross_fit, is_beyond_noise
from whale_ray.retrieval.fusion.isotonic_curves import IsotonicCurve, fit_curve


def draw(queries, *, is_step, seed=0):
    """Candidates whose log-odds are linear in the first score, or 0 up to a step of it; the other scores are noise."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=(len(SCORES), queries, 2))
    log_odds = np.where(scores[0] > 1.0, 3.0, -3.0) if is_step else scores[0] - 1.0
    right = random.random((queries, 2)) < expit(log_odds)
    ranks = np.broadcast_to([1, 2], (queries, 2))
    return candidate_features(ranks, scores, np.ones_like(ranks)), right, np.arange(queries) % 5


def fuse(features, right, folds):
    """Cross-fitted scores of individuals that have one gallery photograph each."""
    return cross_fit(features, right, folds, images=right.any(axis=1))


@pytest.mark.parametrize("decimals", [9, 1], ids=["distinct scores", "equal scores"])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_a_curve_is_the_isotonic_regression_of_scikit_learn_to_the_last_digit(decimals, is_weighted):
    random = np.random.default_rng(0)
    scores = np.round(random.normal(size=400), decimals)
    right = random.random(400) < expit(scores)
    weights = 1 / np.sqrt(random.integers(1, 30, 400)) if is_weighted else None
    curve, asked = fit_curve(scores, right, weights), np.linspace(-5, 5, 101)
    regression = IsotonicRegression(y_min=1e-3, y_max=1 - 1e-3).fit(scores, right.astype(float), sample_weight=weights)
    shares = regression.y_thresholds_
    assert curve == IsotonicCurve(tuple(regression.X_thresholds_), tuple(np.log(shares / (1 - shares))))
    assert (np.diff(curve(asked)) >= 0).all()
    assert curve(np.array([-9.0, 9.0])).tolist() == [curve.log_odds[0], curve.log_odds[-1]]


def test_weights_of_a_curve_count_like_repeated_scores():
    random = np.random.default_rng(0)
    scores, weights = random.normal(size=60), random.integers(1, 4, 60)
    right = random.random(60) < expit(scores)
    weighted, repeated = fit_curve(scores, right, weights), fit_curve(*(np.repeat(v, weights) for v in (scores, right)))
    asked = np.linspace(-2, 2, 41)
    np.testing.assert_allclose(weighted(asked), repeated(asked), atol=1e-9)


@pytest.mark.parametrize("right", [np.zeros(5, dtype=bool), np.ones(5, dtype=bool)])
def test_a_curve_of_one_outcome_or_one_score_is_finite(right):
    for scores in (np.arange(5.0), np.zeros(5)):
        assert np.isfinite(fit_curve(scores, right)(np.array([-1.0, 0.0, 9.0]))).all()


def test_a_score_does_not_depend_on_the_shape_and_none_stays_none():
    curve = IsotonicCurve((0.0, 1.0), (-1.0, 1.0))
    assert curve(np.array([[-1.0, 0.25], [2.0, 0.5]])).tolist() == [[-1.0, -0.5], [1.0, 0.0]]
    assert np.isnan(curve(np.array([np.nan]))).all()


@pytest.mark.parametrize(("is_step", "expected"), [(True, True), (False, False)])
def test_curves_are_taken_where_they_are_better_beyond_noise(is_step, expected):
    fitted = fuse(*draw(1500, is_step=is_step))
    assert bool(fitted.model.curves) == expected


def test_curves_need_enough_right_candidates(monkeypatch):
    features, right, folds = draw(1500, is_step=True)
    monkeypatch.setattr(cross_fitting, "FEWEST_FOR_CURVES", int(right.sum()) + 1)
    assert right.sum() > FEWEST_FOR_CURVES
    assert not fuse(features, right, folds).model.curves


def test_losses_are_those_of_the_cross_fitted_probabilities():
    features, right, folds = draw(300, is_step=False)
    fitted = fuse(features, right, folds)
    chance = expit(20.0 * fitted.scores)
    expected = -np.where(right, np.log(chance), np.log1p(-chance)).sum(axis=1)
    np.testing.assert_allclose(fitted.losses, expected, atol=1e-3)


def test_queries_of_one_cluster_are_not_independent():
    gains = np.random.default_rng(0).normal(0.1, 1.0, 2000)
    assert is_beyond_noise(gains, np.arange(2000))
    repeated = np.repeat(gains[:20], 100)
    assert is_beyond_noise(repeated, np.arange(2000)) or repeated.mean() <= 0
    assert not is_beyond_noise(repeated - repeated.mean() + 0.1, np.repeat(np.arange(20), 100))
