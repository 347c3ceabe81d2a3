"""Axis importance: differences, shares and noise against independent computations."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting
from whale_ray.sweep.analysis import paired_contrasts
from whale_ray.sweep.analysis.fanova import explain
from whale_ray.sweep.analysis.importance import Row, judge_importance
from whale_ray.sweep.analysis.paired_contrasts import (
    MOST_VALUES,
    Spread,
    estimate,
    left_over,
    main_effects,
    matched_contrasts,
    pooled_spread,
)
from whale_ray.sweep.analysis.per_query_scores import of_settings
from whale_ray.sweep.config.axes import Axis
from whale_ray.sweep.config.sweep_spec import load_sweep
from whale_ray.sweep.report.page import write_report
from whale_ray.sweep.run_folder.records import read_records
from whale_ray.sweep.run_folder.setting_queries import read_setting_queries
from whale_ray.sweep.trials.embeddings_io import read_embeddings, write_embeddings
from whale_ray.sweep.trials.scoring import scoring_of

if TYPE_CHECKING:
    from whale_ray.sweep.execution.driver import SweepResult

pytestmark = pytest.mark.integration

GRID = [{"a": a, "b": b, "c": c} for a in (0, 1) for b in ("x", "y", "z") for c in (True, False)]


def weights_of(points: list[dict[str, Any]], **axes: list[Any]) -> dict[tuple[Any, ...], np.ndarray]:
    return {(one.axis, one.first, one.second): one.weights for one in matched_contrasts(points, axes)}


def test_a_matched_difference_is_the_difference_of_means_in_a_whole_grid() -> None:
    scores = np.random.default_rng(0).normal(size=len(GRID))
    found = weights_of(GRID, a=[0, 1], b=["x", "y", "z"], c=[True, False])
    assert len(found) == 1 + 3 + 1
    for (axis, first, second), weights in found.items():
        means = [np.mean([s for s, p in zip(scores, GRID, strict=True) if p[axis] == one]) for one in (first, second)]
        assert weights @ scores == pytest.approx(means[1] - means[0])


def test_in_a_grid_with_holes_only_matched_pairs_count() -> None:
    points = [{"a": 0, "b": 0}, {"a": 1, "b": 0}, {"a": 1, "b": 1}]
    found = weights_of(points, a=[0, 1], b=[0, 1])
    assert found["a", 0, 1].tolist() == [-1, 1, 0]
    assert found["b", 0, 1].tolist() == [0, -1, 1]
    assert not weights_of([{"a": 0, "b": 0}, {"a": 1, "b": 1}], a=[0, 1], b=[0, 1])


def test_an_axis_of_one_alternative_has_no_difference() -> None:
    points = [{"vote": "nearest"}, {"vote": "softmax", "k": 1}, {"vote": "softmax", "k": 5}]
    found = weights_of(points, vote=["nearest", "softmax"], k=[1, 5])
    assert found["vote", "nearest", "softmax"].tolist() == [-1, 0.5, 0.5]
    assert found["k", 1, 5].tolist() == [0, -1, 1]


def test_matched_pairs_are_all_pairs_that_differ_in_one_axis_alone() -> None:
    random = np.random.default_rng(0)
    axes: dict[str, list[Any]] = {"a": [0, 1.5, 2], "b": ["x", "y"], "size": [[1, 2], [3]]}
    drawn = [{name: values[random.integers(len(values))] for name, values in axes.items()} for _ in range(40)]
    points = [{name: point[name] for name in point if random.random() < 0.8} for point in drawn]
    expected: dict[tuple[str, int, int], list[tuple[int, int]]] = {}
    for (one, first), (other, second) in itertools.permutations(enumerate(points), 2):
        differing = [name for name in first.keys() & second.keys() if first[name] != second[name]]
        places = [axes[differing[0]].index(point[differing[0]]) for point in (first, second)] if differing else []
        if len(differing) == 1 and places[0] < places[1]:
            expected.setdefault((differing[0], *places), []).append((one, other))
    found = matched_contrasts(points, axes)
    assert [(one.axis, axes[one.axis].index(one.first), axes[one.axis].index(one.second)) for one in found] == sorted(
        expected, key=lambda key: (list(axes).index(key[0]), key[1:])
    )
    for contrast, pairs in zip(found, (expected[key] for key in sorted(expected)), strict=True):
        weights = np.zeros(len(points))
        for one, other in pairs:
            weights[[one, other]] += [-1.0 / len(pairs), 1.0 / len(pairs)]
        assert contrast.compared == len(pairs)
        np.testing.assert_allclose(contrast.weights, weights, atol=1e-12)


def test_a_value_that_the_sweep_no_longer_has_is_left_out() -> None:
    assert not weights_of([{"a": 0}, {"a": 9}], a=[0, 1])


def test_main_effects_of_a_balanced_design_are_differences_of_means() -> None:
    points = [dict(zip("abc", values, strict=True)) for values in itertools.product((0, 1), repeat=3)]
    scores = np.random.default_rng(1).normal(size=8)
    for one in main_effects(points, dict.fromkeys("abc", (0, 1))):
        high = np.array([point[one.axis] == 1 for point in points])
        assert one.weights @ scores == pytest.approx(scores[high].mean() - scores[~high].mean())


def test_axes_that_the_trials_so_far_cannot_tell_apart_have_no_effect() -> None:
    points = [{"a": 0, "b": 0, "c": 0}, {"a": 1, "b": 1, "c": 0}, {"a": 0, "b": 0, "c": 1}]
    assert [one.axis for one in main_effects(points, dict.fromkeys("abc", (0, 1)))] == ["c"]


def test_the_residual_of_main_effects_is_that_of_least_squares() -> None:
    points = [dict(zip("ab", values, strict=True)) for values in itertools.product((0, 1), repeat=2)]
    spread = left_over(points, dict.fromkeys("ab", (0, 1)), np.array([0.0, 1.0, 2.0, 7.0]))
    assert spread == Spread(pytest.approx(2.0), 1)  # the interaction, (0 - 1 - 2 + 7) / 4, on four points
    assert left_over(points[:3], dict.fromkeys("ab", (0, 1)), np.array([0.0, 1.0, 2.0])) is None


def queries(clusters: int, gains: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Scores of 2 queries a cluster: a first column, then one for each gain over it."""
    random = np.random.default_rng(2)
    first = np.repeat(random.normal(size=clusters), 2)
    columns = [first, *(first + gain + np.repeat(random.normal(size=clusters), 2) for gain in gains)]
    return np.column_stack(columns), np.repeat([f"w_{place}" for place in range(clusters)], 2)


def test_the_interval_is_that_of_a_bootstrap_over_clusters_done_by_hand() -> None:
    scores, clusters = queries(40, [0.3])
    contrasts = matched_contrasts([{"a": 0}, {"a": 1}], {"a": [0, 1]})
    (found,) = estimate(contrasts, scores, clusters, spread=None)
    random = np.random.default_rng(9)
    by_cluster = (scores[:, 1] - scores[:, 0])[::2]
    means = [random.choice(by_cluster, 40).mean() for _ in range(4000)]
    assert found.value == pytest.approx(by_cluster.mean())
    assert (found.low, found.high) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.03)


def test_a_large_gain_is_beyond_noise_a_small_one_is_noise_and_few_clusters_give_no_interval() -> None:
    axes = {"a": [0, 1, 2]}
    contrasts = matched_contrasts([{"a": 0}, {"a": 1}, {"a": 2}], axes)[:2]
    scores, clusters = queries(60, [2.0, 0.01])
    assert [one.verdict for one in estimate(contrasts, scores, clusters, spread=None)] == ["beyond noise", "noise"]
    few = estimate(contrasts, scores[:6], clusters[:6], spread=None)
    assert {one.verdict for one in few} == {"no interval"}


def test_a_gain_within_the_spread_of_seeds_is_noise() -> None:
    scores, clusters = queries(60, [2.0])
    contrasts = matched_contrasts([{"a": 0}, {"a": 1}], {"a": [0, 1]})
    (found,) = estimate(contrasts, scores, clusters, spread=Spread(0.1, 20))
    assert found.verdict == "beyond noise"
    (wide,) = estimate(contrasts, scores, clusters, spread=Spread(1.0, 20))
    assert wide.verdict == "noise"
    assert wide.high - wide.value > 2.0 * 2**0.5, "two trainings, each with the spread of one"


def test_the_spread_of_seeds_pools_their_groups() -> None:
    groups = [[0.1, 0.3], [0.5, 0.6, 0.7], [0.9]]
    residuals = [value - np.mean(group) for group in groups for value in group]
    spread = pooled_spread(iter(groups))
    assert spread == Spread(pytest.approx(np.sqrt(np.sum(np.square(residuals)) / 3)), 3)
    assert pooled_spread(iter([[0.1], [0.2]])) is None


def test_of_a_search_the_axis_that_matters_is_beyond_noise_and_the_other_is_noise() -> None:
    random = np.random.default_rng(3)
    axes = [
        Axis("rate", "float", low=1e-5, high=1e-1, log=True),
        Axis("pool", values=("avg", "gem")),
    ]
    points = [{"rate": float(10 ** random.uniform(-5, -1))} for _ in range(40)]
    points = [point | {"pool": str(random.choice(["avg", "gem"]))} for point in points]
    scores = np.array([-((np.log10(point["rate"]) + 3) ** 2) for point in points]) + 0.1 * random.normal(size=40)
    first, other = explain(points, scores, axes)
    assert (first.axis, first.beyond_noise, first.among) == ("rate", True, 40)
    assert 0.5 < first.low <= first.value <= 1.0
    assert not other.beyond_noise


def test_few_trials_have_no_share() -> None:
    axes = [Axis("size", values=(16, 32))]
    assert not explain([{"size": 16 + 16 * (place % 2)} for place in range(9)], np.arange(9.0), axes)


def test_a_trial_outside_of_the_space_has_no_part_in_shares() -> None:
    axes = [Axis("rate", "float", low=0.1, high=0.2), Axis("size", values=(16, 32))]
    points = [{"rate": 0.1 + place / 100, "size": 16 + 16 * (place % 2)} for place in range(10)]
    outside = [{"rate": 0.9, "size": 16}, {"rate": 0.1, "size": 64}, {"rate": 0.1}]
    found = explain(points + outside, np.arange(13.0), axes)
    assert {one.among for one in found} == {10}


def row_of(rows: list[Row], axis: str) -> Row:
    (row,) = [row for row in rows if row.axis == axis]
    return row


def test_the_differences_of_a_run_are_those_of_its_own_files(finished: SweepResult) -> None:
    sweep = load_sweep(finished.folder / "sweep.yaml")
    rows = judge_importance(read_records(finished.folder), sweep)
    means = {}
    for record in read_records(finished.folder):
        if record.kind == "trial":
            table = pd.read_parquet(record.folder / "queries.parquet")
            means[record.point["loss.name"]] = (table["rank"][table["known"]] == 1).mean()
    loss = row_of(rows, "loss.name")
    assert loss.value == pytest.approx(means["proxy_anchor"] - means["arcface"])
    assert loss.low <= loss.value <= loss.high
    assert "not for other seeds" in loss.note


def test_the_differences_of_retrieval_axes_are_those_of_the_plain_table(finished: SweepResult) -> None:
    sweep = load_sweep(finished.folder / "sweep.yaml")
    records = [record for record in read_records(finished.folder) if record.kind == "trial"]
    tables = pd.concat([pd.read_csv(record.folder / "retrieval.csv") for record in records])
    means = tables.groupby("flip")["recall@1"].mean()
    row = row_of(judge_importance(records, sweep), "retrieval.flip")
    assert row.value == pytest.approx(means["average"] - means["none"])
    assert row.low <= row.value <= row.high
    assert row.compared == 2 * 3, "nearest, and softmax with two k, in each of two trials"


def test_values_are_compared_up_to_a_limit_for_pairs_grow_with_their_square() -> None:
    points = [{"a": a, "b": b} for a in range(MOST_VALUES + 1) for b in "xy"]
    axes = {"a": range(MOST_VALUES + 1), "b": "xy"}
    assert {one.axis for one in matched_contrasts(points, axes)} == {"b"}
    used = points[2:]  # of the values that the axis lists, those of the trials count
    assert len([one for one in matched_contrasts(used, axes) if one.axis == "a"]) == MOST_VALUES * (MOST_VALUES - 1) / 2


def test_an_axis_with_too_many_values_is_named_with_the_reason(
    finished: SweepResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paired_contrasts, "MOST_VALUES", 1)
    run = Path(shutil.copytree(finished.folder, tmp_path / "run", symlinks=True))
    report = write_report(run).read_text()
    rows = pd.read_csv(run / "importance.csv").set_index("axis")
    for axis in ("loss.name", "retrieval.flip"):
        assert (rows.loc[axis, "verdict"], rows.loc[axis, "compared"]) == ("no interval", 0)
        assert np.isnan(rows.loc[axis, "value"])
        assert f"of {axis} is not given: 2 values are too many to compare" in report


def test_a_trial_without_proxies_is_compared_without_a_classifier(finished: SweepResult, tmp_path: Path) -> None:
    trial = next(record for record in read_records(finished.folder) if record.kind == "trial")
    write_embeddings(*read_embeddings(trial.folder), tmp_path)
    bare = replace(trial, folder=tmp_path, settings={**trial.settings, "loss": {"name": "triplet"}})
    settings = [RetrievalSetting(), RetrievalSetting(classifier_weight=0.5)]
    _, alike = of_settings(bare, settings, "map@5")
    assert (alike[:, 0] == alike[:, 1]).all()
    _, other = of_settings(trial, settings, "map@5")
    assert (other[:, 0] != other[:, 1]).any()


@pytest.mark.parametrize("objective", ["map@5", "recall@1", "image_recall@4", "map@5_individuals"])
@pytest.mark.parametrize("stored", ["whole", "cut", "of other settings"])
def test_stored_scores_of_settings_equal_those_of_another_search(
    stored: str, objective: str, finished: SweepResult, tmp_path: Path
) -> None:
    trial = next(record for record in read_records(finished.folder) if record.kind == "trial")
    folder = Path(shutil.copytree(trial.folder, tmp_path / "trial"))
    settings = scoring_of(load_sweep(finished.folder / "sweep.yaml")).retrieval
    file = folder / "setting_queries.npz"
    assert read_setting_queries(folder, settings) is not None
    if stored == "cut":
        file.write_bytes(file.read_bytes()[:200])
    elif stored == "of other settings":
        settings = (*settings, RetrievalSetting(vote="softmax", neighbours=7, temperature=0.2))
    assert (read_setting_queries(folder, settings) is None) == (stored != "whole")
    found = of_settings(replace(trial, folder=folder), settings, objective)
    file.unlink()
    again = of_settings(replace(trial, folder=folder), settings, objective)
    assert found[0].tolist() == again[0].tolist()
    np.testing.assert_array_equal(found[1], again[1])


def test_without_embeddings_a_retrieval_axis_has_its_difference_but_no_interval(
    finished: SweepResult, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished.folder, tmp_path / "little", symlinks=True))
    whole = row_of(judge_importance(read_records(run), load_sweep(run / "sweep.yaml")), "retrieval.flip")
    for name in ("embeddings.npz", "setting_queries.npz"):
        for path in run.glob(f"trials/*/{name}"):
            path.unlink()
    row = row_of(judge_importance(read_records(run), load_sweep(run / "sweep.yaml")), "retrieval.flip")
    assert row.value == pytest.approx(whole.value)
    assert np.isnan(row.low)
    assert row.verdict == "no interval"
    assert "only retrieval.csv is there" in row.note


def test_the_report_shows_what_importance_csv_holds(finished: SweepResult, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished.folder, tmp_path / "little", symlinks=True))
    page = write_report(run).read_text()
    table = pd.read_csv(run / "importance.csv")
    assert {"loss.name", "retrieval.vote", "retrieval.neighbours", "retrieval.flip"} == set(table["axis"])
    assert "Effects beyond noise" in page
    for row in table.itertuples():
        assert f"{100 * row.value:+.1f}" in page
