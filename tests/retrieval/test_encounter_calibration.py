"""Encounters: which photographs are joined, their probabilities and their scores beside single photographs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from whale_ray.retrieval.evaluation.calibration import Calibration, LogisticModel
from whale_ray.retrieval.evaluation.decisions import Decision
from whale_ray.retrieval.evaluation.encounters.answer_probabilities import answer_probabilities
from whale_ray.retrieval.evaluation.encounters.encounter_calibration import (
    EncounterCalibration,
    fit_encounter_calibration,
    read_encounter_calibration,
)
from whale_ray.retrieval.evaluation.encounters.encounter_sets import FEWEST_ENCOUNTERS, find_encounters
from whale_ray.retrieval.evaluation.evaluate import Evaluation, RetrievalSetting, evaluate
from whale_ray.retrieval.search.gallery_index import normalize_rows


def photographs(*, individuals: int = 60, strangers: int = 40, val: int = 3, grouped: bool = True) -> dict[str, Any]:
    """Three training and `val` validation photographs of each individual, and encounters of strangers."""
    random = np.random.default_rng(0)
    members = np.concatenate([np.repeat(np.arange(individuals), 3 + val), np.repeat(np.arange(strangers), val)])
    known = np.arange(len(members)) < individuals * (3 + val)
    members = np.where(known, members, members + individuals)
    parts = np.where(known & (np.arange(len(members)) % (3 + val) < 3), "train", "val")
    centers = random.normal(size=(individuals + strangers, 24))
    vectors = normalize_rows(centers[members] + 1.3 * random.normal(size=(len(members), 24)))
    return {
        "views": {"plain": vectors.astype(np.float16)},
        "individuals": np.where(known, np.char.add("w_", members.astype(str)), "new_whale"),
        "parts": parts,
        "images": np.array([f"{place:05d}.jpg" for place in range(len(members))]),
        "groups": np.where(parts == "val", np.char.add("e_", members.astype(str)), "") if grouped else None,
        "unknown_label": "new_whale",
    }


def found(**drawn: Any) -> Evaluation:
    return evaluate(settings=[RetrievalSetting()], objective="map@5", **photographs(**drawn))


def sets(individuals: list[str], groups: list[str] | None = None, *, splits: list[int] | None = None) -> Any:
    return find_encounters(
        np.array(individuals),
        asking=np.ones(len(individuals), dtype=bool),
        splits=np.array(splits or [0] * len(individuals)),
        groups=None if groups is None else np.array(groups),
        unknown_label="new",
    )


def test_photographs_of_one_individual_group_and_split_are_an_encounter() -> None:
    names = [f"w_{place:02d}" for place in range(FEWEST_ENCOUNTERS) for _ in range(2)]
    groups = [f"g_{place:02d}" for place in range(FEWEST_ENCOUNTERS) for _ in range(2)]
    encounters = sets(names, groups)
    assert [rows.tolist() for rows in encounters.rows] == [[at, at + 1] for at in range(0, len(names), 2)]
    assert not encounters.drawn.any()
    apart = sets(names, groups, splits=[at % 2 for at in range(len(names))])
    assert not apart.rows


def test_groups_of_the_same_named_individual_are_drawn_if_there_are_too_few() -> None:
    names = [*["a"] * 7, *["b"], *["new"] * 5]
    encounters = sets(names, ["", "", "", "", "", "g", "g", *[""] * 4, "h", "h"])
    assert sorted(rows.tolist() for rows in encounters.rows if not (rows < 5).any()) == [[5, 6], [11, 12]]
    assert encounters.drawn.tolist() == sorted(encounters.drawn.tolist())
    drawn = [rows for rows, is_drawn in zip(encounters.rows, encounters.drawn, strict=True) if is_drawn]
    assert drawn
    assert all(2 <= len(rows) <= 4 and (rows < 5).all() for rows in drawn)
    assert len(np.unique(np.concatenate(drawn))) == sum(map(len, drawn))


def test_a_mean_of_several_photographs_separates_better_and_has_its_own_probabilities() -> None:
    evaluation = found(individuals=120, strangers=100)
    scores = evaluation.scores["encounters"]
    assert {name: scores[name] for name in ("known", "new", "drawn", "playing_new")} == {
        "known": 120,
        "new": 100,
        "drawn": 0,
        "playing_new": 0,
    }
    assert scores["mean_photographs"] == 3.0
    first, several, as_single = scores["rows"]
    assert several["auroc"] > first["auroc"]
    assert several["recall@1"] > first["recall@1"]
    assert several["brier/new"] < as_single["brier/new"]
    assert several["brier/new_low"] < several["brier/new"] < several["brier/new_high"]
    assert as_single["new/new"] < several["new/new"], "a mean is nearer to every individual"


def test_known_encounters_play_new_ones_where_strangers_have_no_encounter() -> None:
    scores = found(grouped=False).scores["encounters"]
    assert scores["new"] == 0
    assert scores["playing_new"] == scores["known"] == scores["drawn"] == 60
    assert scores["rows"][1]["brier/new"] < 0.2


@pytest.mark.parametrize(
    "drawn", [{"val": 1}, {"individuals": 5, "strangers": 2}, {"strangers": 0}], ids=["single", "few", "none new"]
)
def test_too_few_encounters_give_no_calibration(drawn: dict[str, int]) -> None:
    evaluation = found(**drawn)
    assert evaluation.encounters is None
    assert "encounters" not in evaluation.scores


def simulated(seed: int = 0, queries: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Answers whose first candidate is right by a logistic in its cosine that moves with the number of photographs."""
    random = np.random.default_rng(seed)
    cosines = np.sort(random.uniform(0.2, 0.9, (queries, 5)), axis=1)[:, ::-1]
    counts = random.integers(2, 6, queries)
    logit = 12.0 * (cosines[:, 0] - 0.75) - 1.5 * np.log(counts / 3)
    return cosines, counts, random.random(queries) < 1 / (1 + np.exp(-logit))


def test_the_probabilities_follow_the_number_of_photographs() -> None:
    cosines, counts, right = simulated()
    fitted = fit_encounter_calibration(
        cosines, right.astype(int), ~right, photographs=counts, weights=np.ones(len(counts))
    )
    assert fitted is not None
    assert fitted.new_slope == pytest.approx(1.5, abs=0.3)
    for count in (2, 5):
        here = counts == count
        assert fitted.at(count).of_new(cosines[here]).mean() == pytest.approx((~right)[here].mean(), abs=0.03)
    assert read_encounter_calibration(json.loads(json.dumps(fitted.written()))) == fitted
    assert read_encounter_calibration(None) is None


def test_strangers_of_encounters_separate_new_ones() -> None:
    random = np.random.default_rng(0)
    cosines, counts, right = simulated()
    weights, strangers = np.ones(len(counts)), 0.6 - 0.1 * right + random.normal(0.0, 0.05, len(counts))
    ranks = right.astype(int)
    plain, fitted = (
        fit_encounter_calibration(cosines, ranks, ~right, photographs=counts, weights=weights, strangers=each)
        for each in (None, strangers)
    )
    assert plain is not None
    assert fitted is not None
    assert plain.base.new is not None
    assert plain.base.new.strangers is None
    assert fitted.base.match == plain.base.match
    assert fitted.new_slope == pytest.approx(1.5, abs=0.4)
    here = counts == 3
    errors = [
        float(np.mean((one.at(3).of_new(cosines[here], strangers=strangers[here]) - ~right[here]) ** 2))
        for one in (plain, fitted)
    ]
    assert errors[1] < 0.8 * errors[0]
    assert read_encounter_calibration(json.loads(json.dumps(fitted.written()))) == fitted


def test_weights_set_the_share_of_new_animals() -> None:
    cosines, counts, right = simulated()
    share = float((~right).mean())
    weights = np.where(right, 1.0, share / (1 - share) / 4)
    plain, rare = (
        fit_encounter_calibration(cosines, right.astype(int), ~right, photographs=counts, weights=each)
        for each in (np.ones(len(counts)), weights)
    )
    assert plain is not None
    assert rare is not None
    assert rare.at(2).of_new(cosines).mean() < plain.at(2).of_new(cosines).mean()
    assert rare.threshold is not None
    assert plain.threshold is not None
    assert rare.threshold <= plain.threshold


def test_each_answer_has_the_calibration_of_its_number_of_photographs() -> None:
    single = Calibration(LogisticModel(0.0, 1.0, 0.0, 0.0), LogisticModel(0.0, -1.0, 0.0, 0.0))
    encounters = EncounterCalibration(single, match_slope=1.0, new_slope=2.0, threshold=0.5)
    decision = Decision("balanced", 0.5, 0.2)
    cosines, counts = np.full((3, 2), 0.6), [1, 2, 4]
    asked = {"strangers": np.full(3, np.nan), "species": [""] * 3, "photographs": counts, "single": single}
    _, new = answer_probabilities(cosines, **asked, encounters=encounters, decision=decision)
    expected = [0.6 - 2.0 * np.log(count) for count in counts]
    np.testing.assert_allclose(new, decision.of_new(1 / (1 + np.exp(expected))))
    match, plain = answer_probabilities(cosines, **asked, encounters=None, decision=None)
    np.testing.assert_allclose(plain, 1 / (1 + np.exp(0.6)))
    np.testing.assert_allclose(match, 1 / (1 + np.exp(-0.6)))
