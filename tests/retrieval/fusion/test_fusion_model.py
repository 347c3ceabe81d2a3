"""Fusion model: fitting, cross-fitting, its scores and its JSON."""

import json

import numpy as np
import pytest

from whale_ray.errors import BundleError
from whale_ray.retrieval.fusion.candidate_features import (
    FEATURES,
    MATCHER_FEATURES,
    SCORES,
    candidate_features,
)
from whale_ray.retrieval.fusion.cross_fitting import cross_fit
from whale_ray.retrieval.fusion.fusion_model import VALUES, FusionModel, fit_fusion_model, read_fusion_model

FOLDS = 5
CURVE = {"scores": [0.0, 1.0], "log_odds": [-2.0, 3.0]}


def draw(queries=200, *, candidates=6, seed=0):
    """Features of candidates, the right one (in 4 of 5 queries) with larger scores, and whether each is right."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=(len(SCORES), queries, candidates))
    right = np.zeros((queries, candidates), dtype=bool)
    known = random.random(queries) < 0.8
    right[np.flatnonzero(known), random.integers(0, candidates, known.sum())] = True
    ranks = np.broadcast_to(np.arange(1, candidates + 1), (queries, candidates))
    return candidate_features(ranks, scores + 2.0 * right), right, np.arange(queries) % FOLDS


def test_right_candidates_have_larger_scores_and_probabilities_hold():
    features, right, _ = draw(2000)
    model = fit_fusion_model(features, right)
    scores = model.scores(features)
    probability = 1.0 / (1.0 + np.exp(-20.0 * scores))
    assert (scores.argmax(axis=1) == right.argmax(axis=1))[right.any(axis=1)].mean() > 0.9
    assert probability.sum() == pytest.approx(right.sum(), rel=0.01)
    assert np.abs(scores).max() <= 1.0


def test_a_score_does_not_depend_on_the_other_queries():
    features, right, _ = draw()
    model = fit_fusion_model(features, right)
    together = model.scores(features)
    for query, alone in enumerate(features):
        np.testing.assert_array_equal(model.scores(alone[None])[0], together[query])


def test_each_fold_is_scored_without_its_own_answers():
    features, right, folds = draw()
    scores, model, _ = cross_fit(features, right, folds)
    own = folds == 2
    changed = right.copy()
    changed[own] = np.random.default_rng(1).permutation(changed[own], axis=1)
    again, other, _ = cross_fit(features, changed, folds)
    np.testing.assert_array_equal(scores[own], again[own])
    assert (scores[~own] != again[~own]).any()
    assert model != other


def test_the_same_candidates_give_the_same_model():
    first, second = (cross_fit(*draw()) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    assert first[1] == second[1]


def test_clear_cases_end_at_the_limits():
    model = FusionModel(1e9, dict.fromkeys(FEATURES, 0.0))
    features = np.zeros((2, 3, len(FEATURES)))
    features[1, 2] = np.nan
    np.testing.assert_array_equal(model.scores(features), [[1.0, 1.0, 1.0], [1.0, 1.0, np.nan]])


@pytest.mark.parametrize("kind", ["none_right", "all_right", "right_in_one_fold", "no_candidate", "no_query"])
def test_with_too_few_outcomes_there_is_no_model(kind):
    features, right, folds = draw()
    if kind == "none_right":
        right[:] = False
    elif kind == "all_right":
        right[:] = True
    elif kind == "right_in_one_fold":
        right[folds != 3] = False
    elif kind == "no_candidate":
        features[:] = np.nan
    else:
        features, right, folds = features[:0], right[:0], folds[:0]
    assert cross_fit(features, right, folds) is None


def test_a_model_without_local_evidence_is_finite():
    features, right, folds = draw()
    local = [name.split("_")[0] in ("individual", "photograph", "inliers") for name in FEATURES]
    features[:, :, local] = 0.0
    scores, model, _ = cross_fit(features, right, folds)
    assert np.isfinite(scores).all()
    assert np.isfinite(list(model.weights.values())).all()


@pytest.mark.parametrize("isotonic", [False, True])
@pytest.mark.parametrize("names", [FEATURES, MATCHER_FEATURES], ids=len)
def test_a_written_model_gives_the_same_scores(isotonic, names):
    features, right, _ = draw()
    if names == MATCHER_FEATURES:  # the confidence beside the others
        features = np.concatenate([features, np.sqrt(np.abs(features[:, :, -3:]))], axis=2)
    model = fit_fusion_model(features, right, isotonic=isotonic)
    again = read_fusion_model(json.loads(json.dumps(model.written(), sort_keys=True)))
    assert tuple(again.weights) == names
    assert {*again.curves} == ({*VALUES} & {*names} if isotonic else set())
    np.testing.assert_array_equal(model.scores(features), again.scores(features))


def test_a_model_of_an_older_bundle_has_neither_shortlist_nor_curves():
    features, right, _ = draw()
    written = fit_fusion_model(features, right).written()
    again = read_fusion_model({name: written[name] for name in ("intercept", "weights")})
    assert (again.shortlist, dict(again.curves)) == (0, {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": {"cosine": 1.0}}, "another version|Another version"),
        ({"weights": None}, "intercept and weights"),
        ({"weights": dict.fromkeys(FEATURES, "much")}, "intercept and weights"),
        ({"weights": dict.fromkeys(FEATURES, float("nan"))}, "finite"),
        ({"intercept": float("inf")}, "finite"),
        ({"intercept": None}, "intercept and weights"),
        ({"shortlist": "many"}, "intercept and weights"),
        ({"curves": []}, "intercept and weights"),
        ({"curves": {"rank": CURVE}}, "nother version"),
        ({"curves": {"nearest_value": {"scores": [0.0]}}}, "intercept and weights"),
        ({"curves": {"nearest_value": CURVE | {"log_odds": [1.0]}}}, "as many finite log-odds"),
        ({"curves": {"nearest_value": CURVE | {"log_odds": [0.0, float("nan")]}}}, "as many finite log-odds"),
        ({"curves": {"nearest_value": CURVE | {"scores": [1.0, 0.0]}}}, "ascend"),
    ],
)
def test_a_damaged_model_is_refused(change, message):
    written = FusionModel(0.5, dict.fromkeys(FEATURES, 1.0)).written() | change
    with pytest.raises(BundleError, match=message):
        read_fusion_model(written)
