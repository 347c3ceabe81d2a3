"""Features of candidates: leads and ranks with ties, missing candidates and a single one."""

import numpy as np
import pytest

from whale_ray.retrieval.fusion.candidate_features import (
    FEATURES,
    SCORES,
    candidate_features,
    leads_over_others,
    ranks_of_scores,
)

NAN = np.nan


@pytest.mark.parametrize(
    ("scores", "leads"),
    [
        ([3.0, 1.0, 2.0], [1.0, -2.0, -1.0]),
        ([3.0, 3.0, 2.0], [0.0, 0.0, -1.0]),
        ([3.0, NAN, 2.0], [1.0, NAN, -1.0]),
        ([3.0, NAN, NAN], [0.0, NAN, NAN]),
        ([NAN, NAN], [NAN, NAN]),
        ([3.0], [0.0]),
        ([], []),
    ],
)
def test_a_lead_is_over_the_best_other_candidate(scores, leads):
    np.testing.assert_array_equal(leads_over_others(np.array([scores])), [leads])


@pytest.mark.parametrize(
    ("scores", "ranks"),
    [
        ([3.0, 1.0, 2.0], [1, 3, 2]),
        ([0.0, 1.0, 0.0], [3, 1, 3]),
        ([0.0, 0.0, 0.0], [3, 3, 3]),
        ([NAN, 1.0, 2.0], [NAN, 2, 1]),
        ([], []),
    ],
)
def test_equal_scores_have_the_last_of_their_ranks(scores, ranks):
    np.testing.assert_array_equal(ranks_of_scores(np.array([scores])), [ranks])


def test_a_missing_candidate_has_no_features_and_changes_those_of_no_other():
    scores = np.random.default_rng(0).random((len(SCORES), 4, 6))
    ranks = np.broadcast_to(np.arange(1, 7), (4, 6))
    wide = np.concatenate([scores, np.full((len(SCORES), 4, 2), NAN)], axis=2)
    images = np.arange(1, 33).reshape(4, 8)
    features = candidate_features(np.broadcast_to(np.arange(1, 9), (4, 8)), wide, images)
    assert features.shape == (4, 8, len(FEATURES) + 1)
    assert np.isnan(features[:, 6:]).all()
    np.testing.assert_array_equal(features[:, :6], candidate_features(ranks, scores, images[:, :6]))
    np.testing.assert_array_equal(np.exp(features[:, :6, -1]).round(), images[:, :6])
