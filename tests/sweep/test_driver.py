"""Sweep driver with a real Ray: contents of the run folder, resuming, growing, interrupting."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import optuna
import pandas as pd
import pytest
from recording_progress import RecordingProgress

from whale_ray.data.caches.cache_folder import pixel_cache
from whale_ray.data.pixel_cache import decode_images
from whale_ray.errors import InputError
from whale_ray.inference.predictor import Bundle
from whale_ray.sweep.config.sweep_spec import Sweep, load_sweep
from whale_ray.sweep.execution.driver import SweepResult, run_sweep
from whale_ray.sweep.planning.dataset import catalog_of
from whale_ray.sweep.planning.trial_points import first_settings, geometries

if TYPE_CHECKING:
    WriteSweep = Callable[..., Sweep]

pytestmark = pytest.mark.integration


@pytest.fixture
def runs(finished: SweepResult, tmp_path: Path) -> Path:
    """A copy of the finished run folder, to resume."""
    shutil.copytree(finished.folder, tmp_path / "runs" / "little", symlinks=True)
    return tmp_path / "runs"


def results(folder: Path) -> dict[str, int]:
    """Return the time at which each trial's result was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("trials/*/result.json")}


# What a run leaves


def test_a_run_folder_has_the_documented_files(finished: SweepResult) -> None:
    folder = finished.folder
    files = {
        "sweep.yaml",
        "split.csv",
        "audit.json",
        "study.db",
        "lock",
        "leaderboard.csv",
        "report.html",
        "clock.json",
        "identity.json",
        "importance.csv",
        "encounters.jpg",
        "maps.json",
        "review.csv",
        "review.json",
        "shortcut_audit.json",
    }
    assert {path.name for path in folder.iterdir()} == files | {"trials", "bundles", "best"}
    assert finished.exit_code == 0
    assert finished.report == folder / "report.html"
    assert "recall" in finished.report.read_text()
    assert json.loads((folder / "audit.json").read_text())
    trials = sorted(path.name for path in (folder / "trials").iterdir())
    assert sorted(finished.table["trial"]) == trials
    assert len(trials) == 1 + 2
    for trial in trials:
        wanted = {
            "settings.json",
            "retrieval.csv",
            "queries.parquet",
            "setting_queries.npz",
            "embeddings.npz",
            "checkpoint",
            "result.json",
        }
        wanted |= set() if trial.startswith("baseline") else {"epochs.csv"}
        found = {path.name for path in (folder / "trials" / trial).iterdir()}
        curves = {name for name in found if name.startswith("events.out.tfevents.")}
        assert len(curves) == (0 if trial.startswith("baseline") else 1)
        assert found - curves == wanted


def test_sweep_yaml_holds_the_resolved_sweep(finished: SweepResult, write_sweep: WriteSweep) -> None:
    assert load_sweep(finished.folder / "sweep.yaml") == write_sweep()


def test_the_leaderboard_is_sorted_and_marks_the_baseline(finished: SweepResult) -> None:
    table = pd.read_csv(finished.folder / "leaderboard.csv")
    assert table["rank"].tolist() == [1, 2, 3]
    assert table["recall@1"].is_monotonic_decreasing
    assert set(table["status"]) == {"finished"}
    baseline = table[table["trial"].str.startswith("baseline-")]
    assert baseline["epochs"].tolist() == [0]
    assert baseline["loss.name"].isna().all()
    trained = table[~table["trial"].str.startswith("baseline-")]
    assert set(trained["loss.name"]) == {"arcface", "proxy_anchor"}
    assert (trained["epochs"] == 2).all()
    assert (table["recall@1_low"] <= table["recall@1"]).all()
    assert (table["recall@1"] <= table["recall@1_high"]).all()


def test_every_score_has_its_ceiling_chance_and_trivial_answer(finished: SweepResult) -> None:
    for path in finished.folder.glob("trials/*/result.json"):
        result = json.loads(path.read_text())
        for name in ("recall@1", "recall@32", "image_recall@4", "map@5"):
            for key in (name, f"{name}_low", f"{name}_high", f"ceiling/{name}", f"chance/{name}"):
                assert 0 <= result[key] <= 1
            assert result[f"{name}_low"] <= result[name] <= result[f"ceiling/{name}"]
        assert 0 <= result["trivial/map@5"] <= 1


def test_every_retrieval_setting_is_scored_and_the_embeddings_are_kept(finished: SweepResult) -> None:
    split = pd.read_csv(finished.folder / "split.csv")
    used = split[split["part"] != "set_aside"]
    for folder in (finished.folder / "trials").iterdir():
        table = pd.read_csv(folder / "retrieval.csv")
        assert len(table) == (1 + 2) * 2
        with np.load(folder / "embeddings.npz", allow_pickle=False) as stored:
            assert stored["plain"].dtype == stored["flip"].dtype == np.float16
            assert len(stored["plain"]) == len(used)
            assert stored["image"].tolist() == used["Image"].tolist()
            assert stored["part"].tolist() == used["part"].tolist()
        queries = pd.read_parquet(folder / "queries.parquet")
        assert sorted(queries["image"]) == sorted(used.loc[used["part"] == "val", "Image"])


def test_each_epoch_of_a_trial_is_a_row(finished: SweepResult) -> None:
    for path in finished.folder.glob("trials/*/epochs.csv"):
        epochs = pd.read_csv(path)
        assert epochs["epoch"].tolist() == [1, 2]
        assert np.isfinite(epochs[["loss", "seconds", "recall@1", "map@5", "images_per_second"]]).all().all()


def test_the_study_holds_each_trial_with_its_retrieval_setting(finished: SweepResult) -> None:
    study = optuna.load_study(study_name="little", storage=f"sqlite:///{finished.folder / 'study.db'}")
    scores = dict(zip(finished.table["trial"], finished.table["recall@1"], strict=True))
    assert len(study.trials) == 2
    for trial in study.trials:
        assert trial.value == scores[trial.user_attrs["trial"]]
        assert trial.user_attrs["vote"] in ("nearest", "softmax")


def test_best_links_to_the_bundle_of_the_first_row(finished: SweepResult) -> None:
    assert os.readlink(finished.folder / "best") == f"bundles/{finished.bundle.name if finished.bundle else ''}"
    bundle = Bundle.load(finished.folder / "best")
    assert bundle.card["trial"] == finished.table["trial"][0]
    assert bundle.card["scores"]["recall@1"] == finished.table["recall@1"][0]


def test_photographs_are_decoded_once_for_all_sweeps(finished: SweepResult, write_sweep: WriteSweep) -> None:
    for geometry in geometries(write_sweep()):
        catalog = catalog_of(first_settings(write_sweep())["data"])
        assert decode_images(catalog, geometry, cache=pixel_cache()).decoded == 0


# Runners


@pytest.mark.slow
def test_ray_and_one_process_give_the_same_table(
    finished: SweepResult, write_sweep: WriteSweep, cluster: str, tmp_path: Path
) -> None:
    on_ray = run_sweep(write_sweep(), runs=tmp_path)
    tables = [result.table.drop(columns="seconds") for result in (on_ray, finished)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert on_ray.bundle
    assert finished.bundle
    assert on_ray.bundle.name.split("-")[:-1] == finished.bundle.name.split("-")[:-1]


def test_one_process_stops_after_the_epoch_and_resumes(write_sweep: WriteSweep, tmp_path: Path) -> None:
    sweep = write_sweep("loss.name=arcface", "train.epochs=3")
    stopping = threading.Event()
    first = RecordingProgress(lambda trial, figures: stopping.set() if figures["epoch"] == 2 else None)
    assert run_sweep(sweep, runs=tmp_path, progress=first, stopping=stopping, in_process=True).exit_code == 130
    assert [epoch for _, epoch in first.epochs] == [1, 2]
    second = RecordingProgress()
    assert run_sweep(sweep, runs=tmp_path, progress=second, in_process=True).exit_code == 0
    assert [epoch for _, epoch in second.epochs] == [3]


# The same command again


@pytest.mark.slow
def test_each_step_after_the_last_trial_is_announced(
    write_sweep: WriteSweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("split={kfold: 2}", "search.ensemble=2", "loss.name=[arcface, supcon]", "train.epochs=1")
    run_sweep(write_sweep(*options, "bundle.runtime=auto"), runs=tmp_path, in_process=True)
    printed = capsys.readouterr().out
    after = printed[printed.rindex("finished (") :]
    steps = (
        "joined to an ensemble",
        "trained again on all photographs",
        "are timed on",
        "report:",
    )
    assert [step for step in steps if step not in after] == []


def test_the_same_command_again_trains_nothing(runs: Path, finished: SweepResult, write_sweep: WriteSweep) -> None:
    before = results(runs / "little")
    progress = RecordingProgress()
    again = run_sweep(write_sweep(), runs=runs, progress=progress, in_process=True)
    assert (progress.begun, progress.epochs) == ([], [])
    assert results(runs / "little") == before
    assert again.exit_code == 0
    assert again.bundle
    assert finished.bundle
    assert again.bundle.name == finished.bundle.name
    pd.testing.assert_frame_equal(again.table, finished.table)


@pytest.mark.slow
def test_a_grown_grid_trains_only_its_new_cells_and_one_that_fails_is_a_row_with_its_reason(
    runs: Path, write_sweep: WriteSweep
) -> None:
    before = results(runs / "little")
    progress = RecordingProgress()
    losses = "loss.name=[arcface, proxy_anchor, supcon]"
    grown = run_sweep(write_sweep(losses, "model.embedding_size=[16]"), runs=runs, progress=progress, in_process=True)
    after = results(runs / "little")
    assert len(progress.begun) == 1
    assert {trial: after[trial] for trial in before} == before
    assert grown.exit_code == 0
    failing = run_sweep(
        write_sweep("loss.name=[arcface]", "train.learning_rate=[3.0e-3, 1.0e+30]"), runs=runs, in_process=True
    )
    assert failing.exit_code == 3
    assert failing.bundle
    row = failing.table.iloc[-1]
    assert (row["status"], row["train.learning_rate"]) == ("failed", 1e30)
    assert "the loss and its gradient must be finite" in row["error"]
    trace = (runs / "little" / "trials" / row["trial"] / "traceback.txt").read_text()
    assert trace.startswith("Traceback")
    assert "TrainingError" in trace
    assert row["trial"] in failing.report.read_text()
    assert (failing.table["status"] == "finished").sum() == 4


# What happens in between


@pytest.mark.slow
def test_a_grid_of_four_grown_to_six_trains_exactly_two(write_sweep: WriteSweep, tmp_path: Path) -> None:
    four = ("loss.name=[arcface, proxy_anchor]", "train.epochs=1")
    first = run_sweep(write_sweep(*four, "model.embedding_size=[8, 16]"), runs=tmp_path, in_process=True)
    assert (first.table["kind"] == "trial").sum() == 4
    before = results(first.folder)
    progress = RecordingProgress()
    grown = run_sweep(
        write_sweep(*four, "model.embedding_size=[8, 16, 24]"), runs=tmp_path, progress=progress, in_process=True
    )
    assert len(progress.begun) == len({trial for trial, _ in progress.epochs}) == 2
    assert (grown.table["kind"] == "trial").sum() == 6
    assert {trial: results(grown.folder)[trial] for trial in before} == before


@pytest.mark.slow
def test_at_a_constant_rate_more_epochs_continue_from_the_checkpoint_with_equal_results(
    write_sweep: WriteSweep, tmp_path: Path
) -> None:
    options = ("loss.name=arcface", "train.schedule=constant")
    run_sweep(write_sweep(*options, "train.epochs=2"), runs=tmp_path / "grown", in_process=True)
    progress = RecordingProgress()
    grown = run_sweep(
        write_sweep(*options, "train.epochs=4"), runs=tmp_path / "grown", progress=progress, in_process=True
    )
    assert [epoch for _, epoch in progress.epochs] == [3, 4]
    whole = run_sweep(write_sweep(*options, "train.epochs=4"), runs=tmp_path / "whole", in_process=True)
    (trial,) = (str(row.trial) for row in whole.table.itertuples() if row.kind == "trial")
    scores = ["recall@1", "map@5", "recall@4"]
    tables = [result.table.set_index("trial").loc[trial, scores].tolist() for result in (grown, whole)]
    assert tables[0] == tables[1]
    curves = [pd.read_csv(result.folder / "trials" / trial / "epochs.csv")["loss"] for result in (grown, whole)]
    assert curves[0].tolist() == curves[1].tolist()


@pytest.mark.slow
def test_with_a_cosine_schedule_more_epochs_are_new_trials_and_a_note_says_so(
    write_sweep: WriteSweep, finished: SweepResult, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = RecordingProgress()
    run_sweep(write_sweep("train.epochs=3", "loss.name=arcface"), runs=runs, progress=progress, in_process=True)
    assert [epoch for _, epoch in progress.epochs] == [1, 2, 3]
    assert "train.epochs is 3, after 2: with schedule: cosine" in capsys.readouterr().out


@pytest.mark.slow
def test_a_stopped_sweep_resumes_with_equal_results(
    runs: Path, write_sweep: WriteSweep, cluster: str, tmp_path: Path
) -> None:
    sweep = write_sweep("loss.name=arcface", "train.epochs=4", "resources.cpus=2")
    stopping = threading.Event()
    first = RecordingProgress(lambda trial, figures: stopping.set() if figures["epoch"] == 2 else None)
    interrupted = run_sweep(sweep, runs=runs, progress=first, stopping=stopping)
    assert interrupted.exit_code == 130
    assert interrupted.interrupted
    (trial,) = set(first.begun)
    row = interrupted.table.set_index("trial").loc[trial]
    assert row["status"] == "running"
    assert 2 <= row["epochs"] < 4
    assert (runs / "little" / "trials" / trial / "checkpoint" / "state.pt").exists()
    second = RecordingProgress()
    result = run_sweep(sweep, runs=runs, progress=second)
    assert result.exit_code == 0
    assert second.begun == [trial]
    assert second.epochs[0] == (trial, row["epochs"] + 1)
    assert not (runs / "little" / "trials" / trial / "checkpoint" / "state.pt").exists()
    whole = run_sweep(sweep, runs=tmp_path / "whole", in_process=True)
    scores = [table.set_index("trial").loc[trial, "map@5"] for table in (result.table, whole.table)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-9)


@pytest.mark.slow
def test_asha_prunes_and_each_trial_has_its_wandb_run(write_sweep: WriteSweep, cluster: str, tmp_path: Path) -> None:
    asha = ("search.scheduler=asha", "search.grace=1", "search.reduction_factor=2", "search.objective=map@5")
    options = ("loss.name=arcface", "seed=[0, 1, 2, 3]", "train.epochs=3", "resources.cpus=2")
    result = run_sweep(write_sweep(*asha, *options, "tracking.wandb=offline"), runs=tmp_path)
    assert result.exit_code == 0
    table = result.table[result.table["kind"] == "trial"].set_index("trial")
    assert set(table["status"]) == {"finished", "pruned"}
    pruned = table[table["status"] == "pruned"]
    assert (pruned["epochs"] < 3).all()
    assert pruned["map@5"].notna().all()
    for trial in result.table["trial"]:
        folder = result.folder / "trials" / trial
        (log,) = folder.glob("wandb/offline-run-*/*.wandb")
        assert trial in log.name
        assert log.stat().st_size > 0
        assert (folder / "checkpoint").exists() == (trial in set(result.table["trial"][:3]) - set(pruned.index))
    study = optuna.load_study(study_name="little", storage=f"sqlite:///{result.folder / 'study.db'}")
    assert sorted(one.state.name for one in study.trials) == sorted(
        {"finished": "COMPLETE", "pruned": "PRUNED"}[status] for status in table["status"]
    )


@pytest.mark.slow
def test_asha_compares_evaluated_epochs_only(write_sweep: WriteSweep, tmp_path: Path) -> None:
    options = ("loss.name=arcface", "search.scheduler=asha", "train.epochs=3", "train.evaluate_every=2")
    result = run_sweep(write_sweep(*options), runs=tmp_path, in_process=True)
    assert result.exit_code == 0
    trial = result.table.loc[result.table["kind"] == "trial", "trial"].item()
    epochs = pd.read_csv(result.folder / "trials" / trial / "epochs.csv")
    assert epochs["recall@1"].notna().tolist() == [False, True, True]


# What cannot work


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("model.encoder=torchvision:resnet19",), "resnet18"),
        (("model.encoder=hf:nowhere/at-all", "model.weights=pretrained"), "nowhere/at-all"),
        (("model.encoder=torchvision:resnet18", "model.weights=pretrained"), "resnet18"),
        (("model.weights=WEIGHTS",), r"do not fit .*(missing|not known)"),
        (("data.root=NOWHERE",), "humpback-whale-identification"),
        (("data.label_column=Ids",), "Did you mean `Id` for `Ids`"),
    ],
)
def test_invalid_input_is_refused_before_anything_starts(
    write_sweep: WriteSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str
) -> None:
    import torch

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "no weights here"))
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pth")
    places = {"WEIGHTS": str(tmp_path / "other.pth"), "NOWHERE": str(tmp_path / "nowhere")}
    for name, place in places.items():
        options = tuple(option.replace(name, place) for option in options)
    with pytest.raises(InputError, match=rf"(?s){message}"):
        run_sweep(write_sweep(*options), runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("resource", "message"), [("cpus=64", "64 CPU where the cluster has 2"), ("gpus=1", "1 GPU")])
def test_a_trial_that_does_not_fit_on_the_cluster_is_refused(
    write_sweep: WriteSweep, cluster: str, tmp_path: Path, resource: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run_sweep(write_sweep(f"resources.{resource}"), runs=tmp_path)
    assert list(tmp_path.glob("little/trials/*")) == []


def test_wandb_online_without_a_key_is_refused(
    write_sweep: WriteSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(InputError, match="needs a key"):
        run_sweep(write_sweep("tracking.wandb=online"), runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_exit_codes() -> None:
    def code(*statuses: str, bundle: Path | None = Path("bundle"), interrupted: bool = False) -> int:
        table = pd.DataFrame({"status": statuses})
        return SweepResult(Path(), table, bundle, Path(), interrupted).exit_code

    assert code("finished", "pruned") == 0
    assert code("finished", "failed") == 3
    assert code("failed", "failed", bundle=None) == 1
    assert code("finished", "running", interrupted=True) == 130
    ended = SweepResult(Path(), pd.DataFrame({"status": []}), None, Path(), interrupted=True, no_node="none is left")
    assert ended.exit_code == 4
