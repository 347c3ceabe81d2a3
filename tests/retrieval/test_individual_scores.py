"""Scores averaged over individuals: recomputed with groupby, and the mix of animals that they hold for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from whale_ray.retrieval.evaluation.evaluate import Evaluation, distinct_settings, evaluate
from whale_ray.retrieval.evaluation.outcomes import weights_over_individuals
from whale_ray.retrieval.evaluation.score_names import INDIVIDUAL_SCORES

SETTINGS = distinct_settings(
    vote=["nearest", "majority", "softmax"], neighbours=[1, 5], temperature=[0.05], flip=["none"]
)
UNKNOWN = "new_whale"
VALUES = {"map@5_individuals": "reciprocal", "recall@1_individuals": "hit"}


def draw(*, seed: int = 0, unknown: int = 20, strangers: int = 0) -> dict[str, Any]:
    """Return arguments of `evaluate`: 24 individuals with 1 to 12 gallery images and 1 to 6 queries.

    An individual with few gallery images has few queries. `strangers` are named queries without a gallery image.
    """
    random = np.random.default_rng(seed)
    rows = []
    for number in range(24):
        gallery, queries = 1 + number // 2, 1 + number // 4
        rows += [(number, f"w_{number:02d}", "train")] * gallery + [(number, f"w_{number:02d}", "val")] * queries
    rows += [(24 + number, UNKNOWN, "val") for number in range(unknown)]
    rows += [(60 + number, f"s_{number}", "val") for number in range(strangers)]
    places, names, parts = (np.array(column) for column in zip(*rows, strict=True))
    vectors = random.normal(size=(100, 8))[places] + 0.9 * random.normal(size=(len(places), 8))
    return {
        "views": {"plain": (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)},
        "individuals": names,
        "parts": parts,
        "images": np.array([f"{place:03d}.jpg" for place in range(len(places))]),
        "settings": SETTINGS,
        "unknown_label": UNKNOWN,
    }


def known_queries(evaluation: Evaluation) -> pd.DataFrame:
    queries = evaluation.queries[evaluation.queries["known"]]
    reciprocal = (1.0 / queries["rank"]).where(queries["rank"].between(1, 5), 0.0)
    return queries.assign(hit=(queries["rank"] == 1).astype(float), reciprocal=reciprocal)


@pytest.mark.parametrize("unknown", [0, 20])
@pytest.mark.parametrize("strangers", [0, 5])
def test_each_known_individual_counts_once_and_no_other_query_counts(unknown: int, strangers: int) -> None:
    evaluation = evaluate(**draw(unknown=unknown, strangers=strangers))
    known = known_queries(evaluation)
    for name, column in VALUES.items():
        assert evaluation.scores[name] == pytest.approx(known.groupby("individual")[column].mean().mean())
    assert evaluation.scores["recall@1_individuals"] < evaluation.scores["recall@1"]
    assert evaluation.scores["ceiling/recall@1_individuals"] == pytest.approx(24 / (24 + strangers))
    assert evaluation.scores["chance/recall@1_individuals"] == pytest.approx(1 / 24)
    assert evaluation.scores["chance/map@5_individuals"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 24)


def test_the_number_of_unknown_queries_changes_map_and_no_score_over_individuals() -> None:
    few, many = (evaluate(**(draw(unknown=unknown) | {"settings": SETTINGS[:1]})) for unknown in (4, 40))
    assert few.scores["map@5"] != many.scores["map@5"]
    assert [few.scores[name] for name in INDIVIDUAL_SCORES] == [many.scores[name] for name in INDIVIDUAL_SCORES]
    known = known_queries(many)
    assert (known["cosine"] < known["threshold"]).any()  # called new, which costs a place in map@5 only
    assert many.scores["map@5_individuals"] > known.groupby("individual")["average_precision@5"].mean().mean()


def test_individuals_that_play_the_unknown_do_not_count() -> None:
    played = evaluate(held_out_as_new=True, **draw(unknown=0, strangers=5))
    known = known_queries(played)
    assert played.threshold is not None
    assert set(known["individual"]) == {f"w_{number:02d}" for number in range(24)}
    for name, column in VALUES.items():
        assert played.scores[name] == pytest.approx(known.groupby("individual")[column].mean().mean())
        assert played.scores[f"ceiling/{name}"] == 1.0


def test_the_interval_resamples_individuals() -> None:
    evaluation = evaluate(**draw())
    random = np.random.default_rng(7)
    for name, column in VALUES.items():
        means = known_queries(evaluation).groupby("individual")[column].mean().to_numpy()
        draws = means[random.integers(0, len(means), (4000, len(means)))].mean(axis=1)
        low, high = np.percentile(draws, [2.5, 97.5])
        assert evaluation.scores[f"{name}_low"] == pytest.approx(low, abs=0.03)
        assert evaluation.scores[f"{name}_high"] == pytest.approx(high, abs=0.03)


def test_with_one_query_an_individual_both_averages_are_equal() -> None:
    photographs = draw(unknown=0)
    table = pd.DataFrame({"individual": photographs["individuals"], "part": photographs["parts"]})
    keep = ((table["part"] == "train") | ~table.duplicated(["individual", "part"])).to_numpy()
    photographs["views"] = {"plain": photographs["views"]["plain"][keep]}
    photographs |= {name: photographs[name][keep] for name in ("individuals", "parts", "images")}
    scores = evaluate(**photographs).scores
    assert photographs["unknown_label"] not in photographs["individuals"]  # else map@5 has a threshold
    for name in INDIVIDUAL_SCORES:
        for end in ("", "_low", "_high"):
            assert scores[f"{name}{end}"] == pytest.approx(scores[f"{name.removesuffix('_individuals')}{end}"])


@pytest.mark.parametrize("objective", INDIVIDUAL_SCORES)
def test_the_best_setting_is_the_best_row_and_its_threshold_is_the_best_for_map(objective: str) -> None:
    evaluation = evaluate(objective=objective, **draw(seed=3))
    row = int(evaluation.table[objective].to_numpy().argmax())
    assert evaluation.best == SETTINGS[row]
    assert evaluation.threshold == evaluation.table["threshold"][row]
    by_map = evaluate(objective="map@5", **draw(seed=3)).table
    assert evaluation.table["threshold"].tolist() == by_map["threshold"].tolist()


@pytest.mark.parametrize("objective", INDIVIDUAL_SCORES)
def test_each_fold_gets_the_setting_that_is_best_on_the_other_folds(objective: str) -> None:
    photographs = draw(seed=3)
    evaluation = evaluate(objective=objective, **photographs)
    for fold in range(5):
        inside = evaluation.queries["fold"] == fold
        out = np.isin(photographs["images"], evaluation.queries[inside]["image"].to_numpy())
        others = {name: photographs[name][~out] for name in ("individuals", "parts", "images")}
        views = {"plain": photographs["views"]["plain"][~out]}
        alone = evaluate(objective=objective, **(photographs | others | {"views": views}))
        chosen = evaluation.queries[inside][["vote", "neighbours", "threshold"]].drop_duplicates()
        assert len(chosen) == 1
        assert (chosen["vote"].item(), chosen["threshold"].item()) == (alone.best.vote, alone.threshold)


def test_an_individual_that_is_asked_for_in_several_splits_counts_once() -> None:
    photographs = draw(unknown=4)
    one = {name: photographs[name] for name in ("individuals", "images")}
    swapped = np.where(photographs["parts"] == "train", "val", "train")  # a second split, the parts exchanged
    both = evaluate(
        {"plain": np.concatenate([photographs["views"]["plain"]] * 2)},
        parts=np.concatenate([photographs["parts"], swapped]),
        splits=np.repeat([0, 1], len(swapped)),
        settings=SETTINGS,
        unknown_label=UNKNOWN,
        **{name: np.tile(column, 2) for name, column in one.items()},
    )
    known = known_queries(both)
    assert known["individual"].value_counts().max() > 6
    for name, column in VALUES.items():
        assert both.scores[name] == pytest.approx(known.groupby("individual")[column].mean().mean())


@pytest.mark.parametrize(
    ("rows", "ends"),
    [("mix", {"1-3": (1, 3), "4-9": (4, 9), "10+": (10, 99)}), ("by_images", {"1": (1, 1), "2-3": (2, 3)})],
)
def test_the_mix_has_the_scores_of_individuals_by_their_gallery_images(
    rows: str, ends: dict[str, tuple[int, int]]
) -> None:
    evaluation = evaluate(**draw())
    known = known_queries(evaluation)
    found = {row["images"]: row for row in evaluation.scores[rows]}
    assert sum(row["queries"] for row in found.values()) == evaluation.scores["known_queries"] == len(known)
    assert sum(row["individuals"] for row in found.values()) == 24
    for name, (least, most) in ends.items():
        here = known[known["gallery_images"].between(least, most)]
        row = found[name]
        assert (row["queries"], row["individuals"]) == (len(here), here["individual"].nunique())
        assert row["recall@1"] == pytest.approx(here["hit"].mean())
        assert row["map@5"] == pytest.approx(here["average_precision@5"].mean())
        for score, column in VALUES.items():
            assert row[score] == pytest.approx(here.groupby("individual")[column].mean().mean())


def test_without_a_known_query_there_is_no_score_over_individuals() -> None:
    photographs = draw()
    photographs["individuals"][photographs["parts"] == "val"] = UNKNOWN
    for objective in INDIVIDUAL_SCORES:
        evaluation = evaluate(objective=objective, **photographs)
        assert all(evaluation.scores[name] is None for name in INDIVIDUAL_SCORES)
        assert all(evaluation.scores[f"chance/{name}"] is None for name in INDIVIDUAL_SCORES)
        assert [row["queries"] for row in evaluation.scores["mix"]] == [0, 0, 0]
        assert evaluation.scores["reason"].startswith("no known query")


def test_weights_of_an_individual_sum_to_one() -> None:
    random = np.random.default_rng(1)
    labels, counted = random.choice(["a", "b", "c"], 50), random.random(50) < 0.6
    sums = pd.Series(weights_over_individuals(labels, counted)).groupby(labels).sum()
    assert sums.tolist() == pytest.approx([1.0, 1.0, 1.0])
    assert not weights_over_individuals(labels, np.zeros(50, dtype=bool)).any()
