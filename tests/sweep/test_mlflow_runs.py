"""MLflow: a sweep's runs on a real server, a resume, and servers that do not answer."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from server_processes import free_port, server_process

from whale_ray.errors import InputError
from whale_ray.sweep.trials.trackers.mlflow_runs import MlflowTracker, begin_mlflow, check_mlflow, end_mlflow
from whale_ray.sweep.trials.trackers.tracker import SweepOutcome, TrackedTrial, Tracking

if TYPE_CHECKING:
    from whale_ray.sweep.config.sweep_spec import Sweep

    WriteSweep = Callable[..., Sweep]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """MLflow's own server, with its database and its artifacts in a folder of the test."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    url = f"http://127.0.0.1:{port}"
    stores = (f"--backend-store-uri=sqlite:///{folder}/mlflow.db", f"--artifacts-destination={folder}/artifacts")
    command = (sys.executable, "-m", "mlflow", "server", *stores, "--port", str(port), "--workers", "1")
    variables = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with server_process(*command, url=f"{url}/health", log=folder / "log", **variables):
        yield url


def outcome_of(folder: Path, *, interrupted: bool = False) -> SweepOutcome:
    (folder / "report.html").write_text("<title>little</title>")
    return SweepOutcome(folder=folder, report=folder / "report.html", bundle=None, interrupted=interrupted)


@pytest.fixture
def silent() -> str:
    """The URL of a server that is down."""
    return f"http://127.0.0.1:{free_port()}"


def runs_of(client: Any, experiment: str) -> list[Any]:
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id]))


@pytest.mark.slow
def test_a_sweep_is_one_run_with_its_trials_scores_report_and_bundle(
    server: str, write_sweep: WriteSweep, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    from whale_ray.sweep.execution.driver import run_sweep

    client = MlflowClient(server)
    options = ("loss.name=arcface", "bundle.thumbnails=false", f"tracking.mlflow={server}")
    sweep = write_sweep(*options, "tracking.mlflow_experiment=whales")
    result = run_sweep(sweep, runs=tmp_path, in_process=True)
    runs = {run.data.tags.get("trial", "parent"): run for run in runs_of(client, "whales")}
    assert set(runs) == {"parent", *result.table["trial"]}
    assert len(runs_of(client, "whales")) == len(runs)
    parent = runs.pop("parent")
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert {run.info.status for run in (parent, *runs.values())} == {"FINISHED"}
    artifacts = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert artifacts == {"sweep.yaml", "report.html", "bundle"}
    assert result.bundle
    (bundle,) = client.list_artifacts(parent.info.run_id, "bundle")
    files = {Path(file.path).name for file in client.list_artifacts(parent.info.run_id, bundle.path)}
    assert files == {path.name for path in result.bundle.iterdir()}

    trial = result.table.loc[result.table["kind"] == "trial", "trial"].item()
    curve = client.get_metric_history(runs[trial].info.run_id, "loss")
    epochs = pd.read_csv(result.folder / "trials" / trial / "epochs.csv")
    assert [point.step for point in curve] == [1, 2]
    assert [point.value for point in curve] == pytest.approx(list(epochs["loss"]))
    scores = result.table.set_index("trial").loc[trial]
    assert runs[trial].data.metrics["map_at_5"] == pytest.approx(scores["map@5"])
    assert runs[trial].data.params["train.epochs"] == "2"
    assert runs[trial].data.params["loss.name"] == "arcface"


@pytest.mark.slow
def test_a_resume_continues_the_runs_of_the_sweep_and_of_the_trial(server: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(server)
    (tmp_path / "sweep.yaml").write_text("name: little")
    trial = TrackedTrial(trial="4e014196", settings={"train": {"epochs": 2}}, folder=tmp_path / "trials" / "4e014196")
    trial.folder.mkdir(parents=True)
    tracking = Tracking(sweep="little", prefix="little", mlflow=server, mlflow_experiment="resumed")
    statuses = []
    for epoch in (1, 2):
        begun = begin_mlflow(tracking, tmp_path, print)
        tracker = MlflowTracker(begun, trial)
        tracker.log({"epoch": epoch, "loss": 1 / epoch, "note": "a text"}, epoch=epoch)
        tracker.close(failed=epoch == 1)
        end_mlflow(begun, outcome_of(tmp_path, interrupted=epoch == 1), print)
        statuses.append({run.info.status for run in runs_of(client, "resumed")})
    assert statuses == [{"FAILED", "KILLED"}, {"FINISHED"}]
    nested = {run.data.tags.get("trial"): run for run in runs_of(client, "resumed")}
    assert len(runs_of(client, "resumed")) == 2
    points = client.get_metric_history(nested["4e014196"].info.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(1, 1.0), (2, 0.5)]
    assert [file.path for file in client.list_artifacts(nested[None].info.run_id)] == ["report.html", "sweep.yaml"]


@pytest.mark.slow
def test_another_run_folder_and_a_deleted_run_get_new_runs(server: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    tracking = Tracking(sweep="little", prefix="little-ab12cd34", mlflow=server, mlflow_experiment="folders")
    said: list[str] = []
    begun = []
    for name in ("first", "first", "second"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "sweep.yaml").write_text("name: little")
        begun.append(begin_mlflow(tracking, tmp_path / name, said.append).mlflow_parent)
    assert begun[0] == begun[1] != begun[2]
    MlflowClient(server).delete_run(begun[0])
    again = begin_mlflow(tracking, tmp_path / "first", said.append).mlflow_parent
    assert again not in (None, *begun)
    assert said == []


def test_a_server_that_is_down_costs_one_warning(silent: str, tmp_path: Path) -> None:
    said: list[str] = []
    tracking = begin_mlflow(Tracking(sweep="little", prefix="little", mlflow=silent), tmp_path, said.append)
    assert tracking.mlflow is None
    (line,) = said
    assert line.startswith("warning: the sweep goes on without MLflow: tracking.mlflow must name a server that answers")
    assert line.endswith(f"{silent}: NewConnectionError")


def test_a_server_that_goes_down_during_a_trial_costs_one_warning_and_a_note_at_the_end(
    silent: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "trials" / "4e014196"
    folder.mkdir(parents=True)
    tracking = Tracking(sweep="little", prefix="little", mlflow=silent, mlflow_parent="0" * 32)
    with caplog.at_level(logging.WARNING, "whale_ray"):
        tracker = MlflowTracker(tracking, TrackedTrial(trial="4e014196", settings={"seed": 0}, folder=folder))
        for epoch in (1, 2):
            tracker.log({"loss": 0.5}, epoch=epoch)
        tracker.summarise({"recall@1": 0.5})
        tracker.close()
    (record,) = [one for one in caplog.records if one.name.startswith("whale_ray")]
    assert "MLflow gets no more figures of trial 4e014196" in record.getMessage()
    assert json.loads((folder / "mlflow.json").read_text())["incomplete"]
    said: list[str] = []
    end_mlflow(tracking, outcome_of(tmp_path), said.append)
    assert len(said) == 2
    assert "has not taken report and bundle" in said[0]
    assert "lacks figures of trials, since it did not answer: 4e014196" in said[1]


def test_without_the_client_the_message_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setattr("whale_ray.sweep.trials.trackers.mlflow_client.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'whale-ray\[mlflow\]'"):
        check_mlflow(Tracking(sweep="little", prefix="little", mlflow="http://127.0.0.1:5000"))
