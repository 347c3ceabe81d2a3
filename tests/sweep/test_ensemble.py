"""Ensembles: choice of members, scores, bundle and identification."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from threadpoolctl import threadpool_info
from waiting import SECONDS

from whale_ray.device import restored_threads
from whale_ray.errors import EncoderError, InputError
from whale_ray.inference.predictor import Bundle
from whale_ray.learning.encoders.ensemble import join_encoders
from whale_ray.retrieval.evaluation.query_clusters import FOLDS
from whale_ray.sweep.analysis.ensemble_choice import cross_fit_members, ensembles_to_score, queries_by_fold
from whale_ray.sweep.analysis.trial_comparison import chosen_by_others, compare_trials
from whale_ray.sweep.config.sweep_spec import load_sweep
from whale_ray.sweep.execution.driver import SweepResult, run_sweep
from whale_ray.sweep.execution.export_bundle import make_bundle
from whale_ray.sweep.planning.dataset import open_dataset
from whale_ray.sweep.planning.trial_points import first_settings, geometries
from whale_ray.sweep.report.plots.curves import describe
from whale_ray.sweep.report.tables.headline import write_headline
from whale_ray.sweep.run_folder.leaderboard import leaderboard
from whale_ray.sweep.run_folder.records import Record, read_record, read_records
from whale_ray.sweep.trials import ensemble
from whale_ray.sweep.trials.embeddings_io import embeddings_bytes, read_embeddings
from whale_ray.sweep.trials.ensemble import (
    MEMBERS_BY_FOLD,
    EnsembleScorer,
    choose_members,
    ranked_trials,
    score_members,
)
from whale_ray.sweep.trials.scoring import scoring_of
from whale_ray.sweep.trials.trackers.tracker import Tracking
from whale_ray.sweep.trials.trial_run import SweepContext
from whale_ray.sweep.trials.worker import retrain_on_all

pytestmark = pytest.mark.integration

TOGETHER = """
name: together
data: {root: ROOT, image_size: 32x64, val_fraction: 0.4}
model:
  - {encoder: tiny, weights: random}
  - {encoder: torchvision:squeezenet1_1, weights: random}
loss: {name: arcface}
train: {epochs: 1, batch_size: 16, learning_rate: 1.0e-3}
retrieval: {whiten: [pca], whitened_size: 8}
search: {strategy: grid, objective: map@5, ensemble: 2}
bundle: {examples: 3, runtime: torch}
"""


def record_of(trial: str, score: float, encoder: str, *, size: Any = 32, kind: str = "trial") -> Record:
    settings = {"model": {"encoder": encoder}, "data": {"image_size": size, "resize": "pad"}}
    result = {"status": "finished", "map@5": score}
    return Record(trial, Path(trial), kind, {}, settings, "", result)


def chosen(records: list[Record], count: int) -> list[str]:
    table = leaderboard(records, axes=[], objective="map@5")
    return [member.trial for member in choose_members(ranked_trials(table, records), count)]


def test_members_are_the_best_of_each_encoder_then_the_next_best() -> None:
    records = [
        record_of("a1", 0.9, "a"),
        record_of("a2", 0.8, "a"),
        record_of("b1", 0.3, "b"),
        record_of("base", 0.95, "c", kind="baseline"),
        record_of("large", 0.85, "d", size=64),
    ]
    assert chosen(records, 2) == ["a1", "b1"]
    assert chosen(records, 3) == ["a1", "b1", "a2"]
    assert chosen(records, 9) == ["a1", "b1", "a2"]


def test_encoders_with_other_preprocessing_are_not_joined() -> None:
    recipes = [{"name": "tiny", "image_size": size} for size in ([32, 32], [32, 64])]
    with pytest.raises(EncoderError, match=r"see the same pictures, but theirs are"):
        join_encoders(recipes, [{}, {}])


def test_an_ensemble_of_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(TOGETHER.replace("ensemble: 2", "ensemble: 1"))
    with pytest.raises(InputError, match=r"joins the embeddings of two trials or more, but is 1"):
        load_sweep(tmp_path / "one.yaml")


@pytest.fixture(scope="module", params=["stratified", "{kfold: 2}"])
def together(
    request: pytest.FixtureRequest, photographs: Path, tmp_path_factory: pytest.TempPathFactory
) -> SweepResult:
    folder = tmp_path_factory.mktemp("together")
    text = TOGETHER.replace("ROOT", str(photographs)) + f"split: {request.param}\n"
    (folder / "together.yaml").write_text(text)
    return run_sweep(load_sweep(folder / "together.yaml"), runs=folder / "runs", in_process=True)


def test_an_ensemble_is_a_leaderboard_row_with_the_embeddings_of_its_members(together: SweepResult) -> None:
    assert together.exit_code == 0
    (trial,) = [name for name in together.table["trial"] if name.startswith("ensemble-")]
    folder = together.folder / "trials" / trial
    settings = json.loads((folder / "settings.json").read_text())["settings"]
    views, table = read_embeddings(folder)
    members = [read_embeddings(together.folder / "trials" / name) for name in settings["members"]]
    assert len(members) == 2
    for view, vectors in views.items():
        cosines = [
            np.sum(one[view].astype(np.float32) * one[view][:1].astype(np.float32), axis=1) for one, _ in members
        ]
        joined = vectors.astype(np.float32) @ vectors[0].astype(np.float32)
        np.testing.assert_allclose(joined, np.mean(cosines, axis=0), atol=5e-3)
    assert all(other.equals(table) for _, other in members)
    result = json.loads((folder / "result.json").read_text())
    assert result["whiten"] == "pca"
    assert result["map@5"] is not None


def test_the_headline_of_a_leading_ensemble_tells_how_its_members_were_chosen(together: SweepResult) -> None:
    records = read_records(together.folder)
    (joined,) = (record for record in records if record.kind == "ensemble")
    (other, *_) = (record for record in records if record.kind == "trial")
    comparison = compare_trials([joined, other], "map@5")
    earlier = dataclasses.replace(joined, result={**joined.result, MEMBERS_BY_FOLD: None})
    del earlier.result[MEMBERS_BY_FOLD]
    asked = [(joined, comparison), (earlier, comparison), (joined, None), (other, comparison)]
    headlines = [
        write_headline(records, best, "map@5", comparison=found, unknown_label="new_whale").after
        for best, found in asked
    ]
    assert ["chosen by all of these queries" in one for one in headlines] == [False, True, True, False]
    assert "by the ensemble that the other four fifths choose: the same members each time." in headlines[0]
    assert describe(joined) == f"{' and '.join(joined.settings['members'])} joined ({joined.trial})"


def test_the_bundle_of_an_ensemble_identifies(together: SweepResult, photographs: Path) -> None:
    sweep = load_sweep(together.folder / "sweep.yaml")
    settings = first_settings(sweep)
    (trial,) = [name for name in together.table["trial"] if name.startswith("ensemble-")]
    cache = together.folder / "cache"
    dataset = open_dataset(settings["data"], settings["split"], geometry=geometries(sweep)[0], cache=cache)
    record = read_record(together.folder / "trials" / trial)
    if dataset.folds > 1:
        # trials have a share of a GPU; the driver, which trains again, need not stand where one is
        tracking = Tracking(sweep="together", prefix="together")
        job = SweepContext(together.folder, Path.cwd(), dataset, scoring_of(sweep), 1, 0.5, tracking)
        said: list[str] = []
        with restored_threads():
            torch.set_num_threads(2)
            record = dataclasses.replace(record, folder=retrain_on_all(trial, job, said.append))
            assert torch.get_num_threads() == 2  # not the one of a trial: what follows has all cores
        assert [line for line in said if re.search("again: epoch 1, loss [0-9]", line)]
    bundle = Bundle.load(make_bundle(record, dataset, run=together.folder, examples=1, thumbnails=False))
    rows = range(0, len(bundle.images), 6)
    found = bundle.embed([bundle.prepare(photographs / "train" / bundle.images[row]) for row in rows])
    assert (1 - np.sum(found * bundle.contents.gallery[list(rows)].astype(np.float32), axis=1)).max() < 1e-2
    (answer,) = bundle.identify([photographs / "train" / bundle.images[0]])
    assert answer.candidates[0].image == bundle.images[0]


def test_an_ensemble_interrupted_while_scoring_is_scored_again_without_training(
    together: SweepResult, tmp_path: Path
) -> None:
    run = shutil.copytree(together.folder, tmp_path / "together", symlinks=True)
    (trial,) = run.glob("trials/ensemble-*")
    (trial / "result.json").unlink()
    again = run_sweep(load_sweep(run / "sweep.yaml"), runs=tmp_path, in_process=True)
    pd.testing.assert_frame_equal(again.table, together.table)
    assert not (trial / "epochs.csv").exists()


def test_the_same_command_makes_no_second_ensemble(together: SweepResult) -> None:
    again = run_sweep(load_sweep(together.folder / "sweep.yaml"), runs=together.folder.parent, in_process=True)
    pd.testing.assert_frame_equal(again.table, together.table)


def with_third_trial(trials: list[Record], run: Path) -> list[Record]:
    """Add a copy of the first trial that is better in the last three folds, while the first is better in two."""
    third = shutil.copytree(trials[0].folder, run / "trials" / "third")
    for record, good in ((trials[0], (0, 1)), (read_record(third), (2, 3, 4))):
        queries = pd.read_parquet(record.folder / "queries.parquet")
        queries["average_precision@5"] = queries["fold"].isin(good).astype(float)
        queries.to_parquet(record.folder / "queries.parquet", index=False)
    return [*trials, read_record(third)]


def test_the_members_of_each_fold_are_those_that_the_other_folds_choose(together: SweepResult, tmp_path: Path) -> None:
    run = shutil.copytree(together.folder, tmp_path / "together", symlinks=True)
    (joined,) = (record for record in read_records(run) if record.kind == "ensemble")
    trials = [record for record in read_records(run) if record.kind == "trial"]
    scoring = scoring_of(load_sweep(run / "sweep.yaml"))
    assert joined.result[MEMBERS_BY_FOLD] == [sorted(one.trial for one in trials)] * FOLDS
    assert not cross_fit_members(joined, trials, scoring, count=2, say=print)

    trials = with_third_trial(trials, run)
    said: list[str] = []
    assert cross_fit_members(joined, trials, scoring, count=2, say=said.append)
    joined = read_record(joined.folder)
    sets = joined.result[MEMBERS_BY_FOLD]
    for fold, names in enumerate(sets):
        assert (trials[0].trial in names) == (fold in (2, 3, 4)), "the fold's own queries choose nothing"
    assert len(said) == 1
    expected = score_members([trials[1], trials[2]], scoring).evaluation.queries
    found = queries_by_fold(joined)
    left_out = next(fold for fold, names in enumerate(sets) if "third" in names)
    columns = ["image", "rank", "fold"]
    pd.testing.assert_frame_equal(
        found[left_out][columns].sort_values("image").reset_index(drop=True),
        expected[columns].sort_values("image").reset_index(drop=True),
    )


def test_ensembles_scored_at_once_have_the_scores_of_each_alone(
    together: SweepResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensemble, "available_cpus", lambda: 2)
    run = shutil.copytree(together.folder, tmp_path / "together", symlinks=True)
    scoring = scoring_of(load_sweep(run / "sweep.yaml"))
    trials = [record for record in read_records(run) if record.kind == "trial"]
    pairs = [trials, trials[::-1]]
    with EnsembleScorer(scoring) as scorer:
        scorer.begin(pairs)
        assert {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"} == {1}
        found = [scorer.score(members) for members in pairs]
    for members, one in zip(pairs, found, strict=True):
        alone = score_members(members, scoring)
        assert one.evaluation.scores == alone.evaluation.scores
        pd.testing.assert_frame_equal(one.evaluation.queries, alone.evaluation.queries)


@pytest.mark.parametrize("together", ["stratified"], indirect=True)
def test_ensembles_that_need_more_memory_than_the_limit_are_scored_one_after_another(
    together: SweepResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensemble, "available_cpus", lambda: 2)
    scoring = scoring_of(load_sweep(together.folder / "sweep.yaml"))
    trials = [record for record in read_records(together.folder) if record.kind == "trial"]
    pairs = [trials, trials[::-1]]
    size = sum(embeddings_bytes(member.folder) for members in pairs for member in members)
    vectors = [vector for record in trials for vector in read_embeddings(record.folder)[0].values()]
    assert size >= 2 * sum(vector.nbytes for vector in vectors) > 0
    scored_on: list[str] = []

    def score(members: Any, scoring: Any) -> Any:
        scored_on.append(threading.current_thread().name)
        return score_members(members, scoring)

    monkeypatch.setattr(ensemble, "score_members", score)
    main = threading.current_thread().name
    for limit, expected in ((size - 1, [main, main]), (size, ["ensemble", "ensemble"])):
        monkeypatch.setattr(ensemble, "_MOST_BYTES", limit)
        with EnsembleScorer(scoring) as scorer:
            scorer.begin(pairs)
            for members in pairs:
                scorer.score(members)
        assert scored_on == expected
        scored_on.clear()


ENDLESS = """
import os
import sys
from whale_ray.sweep.command import main
from whale_ray.sweep.trials import ensemble

score = ensemble.score_members

def score_for_ever(members, scoring):
    os.write(1, b"SCORING\\n")  # in one piece: both threads write it
    while True:
        score(members, scoring)

ensemble.score_members, ensemble.available_cpus = score_for_ever, lambda: 2
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("together", ["stratified"], indirect=True)
def test_ctrl_c_ends_ensembles_that_are_scored_at_once_and_the_same_command_continues(
    together: SweepResult, tmp_path: Path
) -> None:
    run = shutil.copytree(together.folder, tmp_path / "together", symlinks=True)
    (trial,) = run.glob("trials/ensemble-*")
    shutil.rmtree(trial)
    with_third_trial([record for record in read_records(run) if record.kind == "trial"], run)
    command = [sys.executable, "-c", ENDLESS, str(run / "sweep.yaml"), "--runs", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if lines.count("SCORING\n") == 2:
                break
        time.sleep(0.2)  # both are scored now
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=SECONDS)  # an endless scoring would hold it
    assert process.returncode == 130, "".join(lines) + rest
    assert "Run the same command again to resume" in rest
    assert "Traceback" not in rest
    again = run_sweep(load_sweep(run / "sweep.yaml"), runs=tmp_path, in_process=True)
    assert again.exit_code == 0
    assert [name for name in again.table["trial"] if name.startswith("ensemble-")]


def test_ensembles_that_the_run_folder_lacks_are_scored_and_no_others(together: SweepResult, tmp_path: Path) -> None:
    run = shutil.copytree(together.folder, tmp_path / "together", symlinks=True)
    (joined,) = (record for record in read_records(run) if record.kind == "ensemble")
    trials = [record for record in read_records(run) if record.kind == "trial"]
    members = [next(one for one in trials if one.trial == name) for name in joined.settings["members"]]

    def missing() -> list[list[str]]:
        found = ensembles_to_score(members, trials, run, "map@5", count=2)
        return [[one.trial for one in each] for each in found]

    assert missing() == []
    (joined.folder / "result.json").unlink()
    assert missing() == [joined.settings["members"]]
    assert ensembles_to_score(members[:1], trials, run, "map@5", count=2) == []
    trials = with_third_trial(trials, run)
    assert [sorted(one) for one in missing()[1:]] == [sorted([trials[1].trial, "third"])]


def test_a_fold_is_scored_by_what_the_other_folds_choose(together: SweepResult) -> None:
    records = [one for one in read_records(together.folder) if one.kind in ("ensemble", "trial")]
    chosen = chosen_by_others(records, "map@5")
    tables = [pd.read_parquet(record.folder / "queries.parquet") for record in records]
    assert sorted(chosen["image"]) == sorted(tables[0]["image"])
    for fold in chosen["fold"].unique():
        means = [table.loc[table["fold"] != fold, "average_precision@5"].mean() for table in tables]
        best = tables[int(np.argmax(means))].set_index("image")["average_precision@5"]
        own = chosen[chosen["fold"] == fold].set_index("image")["average_precision@5"]
        assert own.equals(best[own.index])
    comparison = compare_trials(records, "map@5")
    assert comparison is not None
    assert comparison.scores["map@5"].value == comparison.score == pytest.approx(chosen["average_precision@5"].mean())
    assert {"map@5", "map@5_individuals", "recall@1"} <= set(comparison.scores)
