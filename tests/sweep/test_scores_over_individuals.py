"""Scores over individuals in a run: per-query scores, comparison of trials, the mix in headline and model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from whale_ray.inference.model_card import model_card
from whale_ray.retrieval.evaluation.evaluate import distinct_settings, evaluate
from whale_ray.retrieval.evaluation.score_names import INDIVIDUAL_SCORES, OBJECTIVES
from whale_ray.sweep.analysis.per_query_scores import of_settings, of_trials, query_scores
from whale_ray.sweep.analysis.trial_comparison import compare_trials
from whale_ray.sweep.report.tables.headline import write_headline
from whale_ray.sweep.report.tables.scores_by_gallery_size import describe_mix
from whale_ray.sweep.run_folder.records import Record, read_record, write_record, write_result
from whale_ray.sweep.trials.embeddings_io import write_embeddings
from whale_ray.sweep.trials.scoring import write_scores

pytestmark = pytest.mark.integration

SETTINGS = distinct_settings(vote=["nearest", "softmax"], neighbours=[5], temperature=[0.05], flip=["none"])
UNKNOWN = "new_whale"


def trial(run: Path, name: str, *, noise: float, objective: str = "recall@1") -> Record:
    """Return a finished trial: 20 individuals with 1 to 10 gallery images and 1 to 5 queries, and 12 unknown ones."""
    rows = [
        (f"w_{number:02d}", part)
        for number in range(20)
        for part in ["train"] * (1 + number // 2) + ["val"] * (1 + number // 4)
    ]
    table = pd.DataFrame([*rows, *[(UNKNOWN, "val")] * 12], columns=["individual", "part"])
    table = table.assign(image=[f"{row}.jpg" for row in range(len(table))], group="", split=0, viewpoint="", species="")
    random = np.random.default_rng(0)
    places = np.where(table["individual"] == UNKNOWN, 20 + table.index, table["individual"].factorize()[0])
    vectors = random.normal(size=(400, 8))[places] + noise * random.normal(size=(len(table), 8))
    views = {"plain": (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)}
    columns = {column: table[column].to_numpy(dtype=str) for column in ("individual", "image", "group", "part")}
    evaluation = evaluate(
        views,
        individuals=columns["individual"],
        images=columns["image"],
        groups=columns["group"],
        parts=columns["part"],
        settings=SETTINGS,
        unknown_label=UNKNOWN,
        objective=objective,
    )
    folder = run / "trials" / name
    settings = {"data": {"unknown_label": UNKNOWN}, "split": {"kind": "stratified"}}
    write_record(folder, kind="trial", point={}, settings=settings, data_fingerprint="0" * 16)
    write_embeddings(views, table, folder)
    write_scores(evaluation, folder)
    write_result(folder, {**evaluation.scores, "status": "finished", "error": ""})
    return read_record(folder)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_mean_of_the_per_query_scores_is_the_score_of_the_trial(objective: str, tmp_path: Path) -> None:
    record = trial(tmp_path, "a", noise=0.8)
    scores = query_scores(record, objective)
    assert scores.scores.mean() == pytest.approx(record.result[objective])
    assert len(set(scores.names)) == len(scores.names)
    if objective in INDIVIDUAL_SCORES:
        assert set(scores.names) == {f"w_{number:02d}" for number in range(20)}


@pytest.mark.parametrize("objective", [*INDIVIDUAL_SCORES, "map@5", "image_recall@1"])
def test_the_means_of_each_setting_are_those_of_the_table(objective: str, tmp_path: Path) -> None:
    record = trial(tmp_path, "a", noise=0.8)
    units, scores = of_settings(record, SETTINGS, objective)
    table = pd.read_csv(record.folder / "retrieval.csv")
    assert scores.mean(axis=0).tolist() == pytest.approx(table[objective].tolist())
    assert set(units) == set(query_scores(record, objective).names)


@pytest.mark.parametrize("objective", INDIVIDUAL_SCORES)
def test_trials_are_compared_individual_by_individual(objective: str, tmp_path: Path) -> None:
    records = [trial(tmp_path, "a", noise=0.5), trial(tmp_path, "b", noise=1.2)]
    same, outcomes = of_trials(records, objective)
    assert outcomes is not None
    assert (len(same), outcomes.scores.shape) == (2, (20, 2))
    comparison = compare_trials(records, objective)
    assert comparison is not None
    apart = comparison.differences["b"]
    assert apart.value == pytest.approx(records[0].result[objective] - records[1].result[objective])
    differences = outcomes.scores[:, 0] - outcomes.scores[:, 1]
    draws = differences[np.random.default_rng(3).integers(0, 20, (4000, 20))].mean(axis=1)
    assert (apart.low, apart.high) == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])), abs=0.03)


def test_the_headline_says_which_mix_of_individuals_it_holds_for(tmp_path: Path) -> None:
    record = trial(tmp_path, "a", noise=0.8)
    result = record.result
    mix = describe_mix(result, "map@5")
    assert mix.startswith("The score holds for this mix of animals (map@5 of each class): ")
    for row, words in zip(result["mix"], ("1 to 3 gallery photographs", "4 to 9", "10 or more"), strict=True):
        counts = f"{row['queries']} queries of {row['individuals']} individuals with {words}: {row['map@5']:.3f}"
        assert counts in mix
    queries = pd.read_parquet(record.folder / "queries.parquet")
    unknown = queries[~queries["known"]]["average_precision@5"]
    assert f"{len(unknown)} queries of individuals that are not in the gallery: {unknown.mean():.3f}." in mix
    assert f"If each known individual counts once, map@5_individuals is {result['map@5_individuals']:.3f} (95 %" in mix


@pytest.mark.parametrize(
    ("objective", "shown", "beside"),
    [
        ("recall@4", "recall@1", "recall@1_individuals"),
        ("image_recall@1", "recall@1", "recall@1_individuals"),
        ("map@5", "map@5", "map@5_individuals"),
        ("recall@1_individuals", "recall@1_individuals", "recall@1"),
        ("map@5_individuals", "map@5_individuals", "map@5"),
    ],
)
def test_the_mix_is_averaged_as_the_objective_and_names_the_other_average(
    objective: str, shown: str, beside: str, tmp_path: Path
) -> None:
    mix = describe_mix(trial(tmp_path, "a", noise=0.8).result, objective)
    assert f"({shown} of each class)" in mix
    assert f"{beside} is" in mix
    assert ("not in the gallery" in mix) == (objective == "map@5")


@pytest.mark.parametrize("result", [{}, {"mix": []}, {"mix": [{"images": "1-3", "queries": 0}]}])
def test_a_trial_of_an_earlier_version_or_without_known_queries_has_no_mix(result: dict[str, Any]) -> None:
    assert describe_mix(result, "map@5") == ""


@pytest.mark.parametrize(
    ("objective", "said"),
    [("map@5_individuals", "each counting once, the MAP@5 of the best model"), ("recall@1_individuals", "first in")],
)
def test_the_headline_says_that_individuals_count_once(objective: str, said: str, tmp_path: Path) -> None:
    record = trial(tmp_path, "a", noise=0.8, objective=objective)
    headline = write_headline([record], record, objective, comparison=None, unknown_label=UNKNOWN)
    sentence = f"{headline.before} {headline.score} {headline.after}"
    assert said in sentence
    assert "counting once" in sentence
    shown = record.result[objective]
    assert (f"{shown:.3f}" if objective.startswith("map") else f"{100 * shown:.1f} %") in headline.score
    assert {"recall@1", "map@5", *INDIVIDUAL_SCORES} <= set(headline.scores)


def test_the_model_card_has_both_averages_and_the_mix(tmp_path: Path) -> None:
    scores = json.loads(json.dumps(trial(tmp_path, "a", noise=0.8).result))
    manifest = {
        "id": "a",
        "scores": scores,
        "retrieval": {"vote": "nearest"},
        "threshold": None,
        "embedding_size": 8,
        "individuals": 20,
        "images": 110,
        "measured_gallery": 110,
        "data_fingerprint": "0",
        "encoder": {"name": "t"},
    }
    card = model_card(manifest)
    for name in INDIVIDUAL_SCORES:
        assert f"| {name} | {scores[name]:.3f}, {scores[name + '_low']:.3f} to {scores[name + '_high']:.3f}" in card
    for row in scores["mix"]:
        assert f"| {row['images']} | {row['individuals']} | {row['queries']} | {row['recall@1']:.3f} |" in card
    older = {name: value for name, value in scores.items() if "individuals" not in name and name != "mix"}
    assert "individuals |" not in model_card(manifest | {"scores": older})
