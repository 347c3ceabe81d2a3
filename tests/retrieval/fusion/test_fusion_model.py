"""Fusion model: fitting, cross-fitting, its scores and its JSON."""

import json

import numpy as np
import pytest

from whale_ray.errors import BundleError
from whale_ray.retrieval.fusion import cross_fitting
from whale_ray.retrieval.fusion.candidate_features import (
    FEATURES,
    MATCHER_FEATURES,
    MATCHER_SCORES,
    SCORES,
    candidate_features,
)
from whale_ray.retrieval.fusion.cross_fitting import FEWEST_FOR_SLOPES, cross_fit
from whale_ray.retrieval.fusion.fusion_model import (
    VALUES,
    FusionModel,
    fit_fusion_model,
    query_weights,
    read_fusion_model,
)

FOLDS = 5
CURVE = {"scores": [0.0, 1.0], "log_odds": [-2.0, 3.0]}


def draw(queries=200, *, candidates=6, names=SCORES, seed=0):
    """Features of candidates, the right one (in 4 of 5 queries) with larger scores, and whether each is right."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=(len(names), queries, candidates))
    right = np.zeros((queries, candidates), dtype=bool)
    known = random.random(queries) < 0.8
    right[np.flatnonzero(known), random.integers(0, candidates, known.sum())] = True
    ranks = np.broadcast_to(np.arange(1, candidates + 1), (queries, candidates))
    images = random.integers(1, 30, (queries, candidates))
    return candidate_features(ranks, scores + 2.0 * right, images), right, np.arange(queries) % FOLDS


def images_of(features, right):
    """Number of gallery photographs of the individual of each query, 0 for none."""
    return np.where(right, np.exp(features[:, :, -1]).round(), 0).sum(axis=1)


def fuse(features, right, folds):
    return cross_fit(features, right, folds, images=images_of(features, right))


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
    scores, model, _ = fuse(features, right, folds)
    own = folds == 2
    changed = right.copy()
    changed[own] = np.random.default_rng(1).permutation(changed[own], axis=1)
    again, other, _ = cross_fit(features, changed, folds, images=images_of(features, right))
    np.testing.assert_array_equal(scores[own], again[own])
    assert (scores[~own] != again[~own]).any()
    assert model != other


def test_the_same_candidates_give_the_same_model():
    first, second = (fuse(*draw()) for _ in range(2))
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
    assert fuse(features, right, folds) is None


def test_a_model_without_local_evidence_is_finite():
    features, right, folds = draw()
    local = [name.split("_")[0] in ("individual", "photograph", "inliers") for name in FEATURES]
    features[:, :, [*local, False]] = 0.0
    scores, model, _ = fuse(features, right, folds)
    assert np.isfinite(scores).all()
    assert np.isfinite(list(model.weights.values())).all()


@pytest.mark.parametrize("has_slopes", [False, True])
@pytest.mark.parametrize("isotonic", [False, True])
@pytest.mark.parametrize(("names", "scores"), [(FEATURES, SCORES), (MATCHER_FEATURES, MATCHER_SCORES)], ids=len)
def test_a_written_model_gives_the_same_scores(isotonic, names, scores, has_slopes):
    features, right, _ = draw(names=scores)
    images = images_of(features, right) if has_slopes else None
    model = fit_fusion_model(features, right, images=images, isotonic=isotonic)
    assert bool(model.slopes) == has_slopes
    again = read_fusion_model(json.loads(json.dumps(model.written(), sort_keys=True)))
    assert tuple(again.weights) == names
    assert {*again.curves} == ({*VALUES} & {*names} if isotonic else set())
    np.testing.assert_array_equal(model.scores(features), again.scores(features))


def test_a_model_of_an_older_bundle_has_no_shortlist_no_curves_and_no_slopes():
    features, right, _ = draw()
    written = fit_fusion_model(features, right).written()
    again = read_fusion_model({name: written[name] for name in ("intercept", "weights")})
    assert (again.shortlist, dict(again.curves), dict(again.slopes)) == (0, {}, {})


def draw_by_images(queries=1500, *, seed=0):
    """Candidates with 1 to 30 photographs, a score that is larger by chance the more there are, and noise."""
    random = np.random.default_rng(seed)
    images = random.choice([1, 2, 30], (queries, 6), p=[0.3, 0.3, 0.4])
    scores = random.normal(size=(len(SCORES), queries, 6))
    scores[0] += 1.5 * np.log(images)
    right = np.zeros((queries, 6), dtype=bool)
    right[np.arange(queries), random.integers(0, 6, queries)] = True
    scores[0] += 2.5 * right
    ranks = np.broadcast_to(np.arange(1, 7), (queries, 6))
    return candidate_features(ranks, scores, images), right, np.arange(queries) % FOLDS


def test_slopes_keep_many_photographs_from_winning_by_chance():
    features, right, folds = draw_by_images()
    found = fuse(features, right, folds)
    assert found.model.slopes
    without = fit_fusion_model(features, right)
    rare = (images_of(features, right) <= 2) & right.any(axis=1)
    hits = [(scores.argmax(axis=1) == right.argmax(axis=1)) for scores in (without.scores(features), found.scores)]
    assert hits[1][rare].mean() > hits[0][rare].mean() + 0.1
    assert hits[1].mean() > hits[0].mean()


def test_slopes_are_those_of_the_fit_with_products_as_features():
    features, right, _ = draw_by_images()
    images = images_of(features, right)
    model = fit_fusion_model(features, right, images=images)
    again = fit_fusion_model(features, right, images=images, start=model)
    np.testing.assert_allclose(again.scores(features), model.scores(features), atol=1e-5)
    weights = query_weights(images)
    chance = 1.0 / (1.0 + np.exp(-model.log_odds(features)))
    np.testing.assert_allclose((weights @ (chance - right)).sum(), 0.0, atol=1e-3)  # of the unpenalized intercept


@pytest.mark.parametrize(("enough", "expected"), [(0, True), (1, False)])
def test_slopes_need_enough_right_candidates(monkeypatch, enough, expected):
    features, right, folds = draw_by_images(600)
    assert right.sum() > FEWEST_FOR_SLOPES
    monkeypatch.setattr(cross_fitting, "FEWEST_FOR_SLOPES", int(right.sum()) + enough)
    assert bool(fuse(features, right, folds).model.slopes) == expected


def test_galleries_of_one_photograph_each_have_finite_slopes():
    features, right, folds = draw(600)
    features[:, :, -1] = 0.0
    found = fuse(features, right, folds)
    assert found.model.slopes
    assert np.isfinite(found.scores).all()


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
        ({"slopes": []}, "intercept and weights"),
        ({"slopes": {"intercept": 1.0}}, "nother version"),
        ({"slopes": dict.fromkeys(("intercept", *FEATURES), float("nan"))}, "finite"),
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
