"""Decision between known and new: probabilities at another share of new animals, and the errors that follow."""

from __future__ import annotations

import numpy as np
import pytest

from whale_ray.retrieval.evaluation.decisions import (
    CURVE_SHARES,
    DecisionRule,
    expected_errors,
    read_decision,
    shift_share,
)


@pytest.mark.parametrize(("measured", "assumed"), [(0.22, 0.5), (0.5, 0.05), (0.3, 0.3)])
def test_a_shifted_probability_is_the_one_of_bayes_at_the_other_share(measured: float, assumed: float) -> None:
    """From the likelihoods of a score under known and new, as a calibration at each share would learn it."""
    of_known, of_new = np.array([0.7, 0.2, 0.1]), np.array([0.1, 0.3, 0.6])

    def posterior(share: float) -> np.ndarray:
        joint = share * of_new
        return np.asarray(joint / (joint + (1 - share) * of_known))

    np.testing.assert_allclose(shift_share(posterior(measured), measured, assumed), posterior(assumed))


def test_certain_and_missing_probabilities_stay() -> None:
    found = shift_share(np.array([0.0, 1.0, np.nan]), 0.2, 0.7)
    np.testing.assert_array_equal(found, [0.0, 1.0, np.nan])


def test_the_rules_assume_one_half_the_given_share_or_the_measured_one() -> None:
    assert {rule: DecisionRule(rule, share).at(0.2) for rule, share in [("map@5", None)]} == {"map@5": None}
    shares = [DecisionRule(*one).at(0.2).assumed_share for one in [("balanced",), ("cost", 0.05), ("cost", None)]]  # type: ignore[union-attr]
    assert shares == [0.5, 0.05, 0.2]
    assert [DecisionRule().at(share) for share in (0.0, 1.0)] == [None, None]


def test_a_written_decision_is_read_again() -> None:
    decision = DecisionRule("cost", 0.1).at(0.25)
    assert decision is not None
    assert read_decision(decision.written()) == decision
    assert read_decision(None) is None


def test_the_balanced_decision_weighs_known_and_new_alike() -> None:
    """The decision at one half has the largest mean of the two rates, whatever the share in validation."""
    random = np.random.default_rng(0)
    new = random.random(20_000) < 0.1
    score = random.normal(np.where(new, 1.0, 0.0))
    probability = 0.1 / (0.1 + 0.9 * np.exp(0.5 - score))  # of two normal distributions one apart
    decision = DecisionRule("balanced").at(float(new.mean()))
    assert decision is not None

    def rates(limit: float) -> float:
        says = decision.of_new(probability) >= limit
        return float((says[new].mean() + (~says)[~new].mean()) / 2)

    assert (probability[new] >= 0.5).mean() < 0.15
    assert rates(0.5) > max(rates(0.35), rates(0.65))
    assert rates(0.5) == pytest.approx(0.69, abs=0.02)


def test_candidates_are_scaled_as_the_probability_of_known() -> None:
    decision = DecisionRule("balanced").at(0.2)
    assert decision is not None
    match, new = np.array([[0.6, 0.1], [0.9, np.nan]]), np.array([0.2, np.nan])
    np.testing.assert_allclose(decision.of_match(match, new), [[0.375, 0.0625], [0.9, np.nan]])


def test_expected_errors_are_those_of_a_resampled_service() -> None:
    random = np.random.default_rng(1)
    known = random.random(4_000) < 0.7
    right = known & (random.random(4_000) < 0.8)
    probability = np.clip(np.where(known, 0.25, 0.45) + random.normal(0, 0.15, 4_000), 0.01, 0.99)
    rows = expected_errors(probability, right=right, known=known)
    assert [row["new_share"] for row in rows] == list(CURVE_SHARES)
    for row in rows:
        share = row["new_share"]
        drawn = np.concatenate(
            [
                random.choice(np.flatnonzero(kind), int(20_000 * part))
                for kind, part in ((known, 1 - share), (~known, share))
            ]
        )
        says = shift_share(probability[drawn], float((~known).mean()), share) >= 0.5
        wrong = np.where(known[drawn], says | ~right[drawn], ~says)
        assert row["error"] == pytest.approx(wrong.mean(), abs=0.02)
        assert row["trivial"] == pytest.approx(min(1 - share, share + (1 - share) * (~right[known]).mean()))


@pytest.mark.parametrize("kind", [True, False])
def test_without_known_or_new_queries_no_error_is_expected(kind: bool) -> None:
    known = np.full(4, kind)
    assert expected_errors(np.full(4, 0.3), right=known, known=known) == []
