"""Dry run and time estimate."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from small_sweep import SWEEP
from typer.testing import CliRunner

from whale_ray.cli import application
from whale_ray.sweep.config.trial_identity import trial_identity
from whale_ray.sweep.execution.driver import SweepResult, run_sweep
from whale_ray.sweep.planning.dry_run import forecast, trials_at_once, trials_left
from whale_ray.sweep.planning.time_estimate import estimate, measure_step
from whale_ray.sweep.planning.trial_points import first_settings, grid_points
from whale_ray.sweep.run_folder.records import read_records

if TYPE_CHECKING:
    from whale_ray.sweep.config.sweep_spec import Sweep

    WriteSweep = Callable[..., Sweep]


def test_a_new_sweep_has_all_trials_to_begin(write_sweep: WriteSweep, tmp_path: Path) -> None:
    lines = list(forecast(write_sweep("data.image_size=40"), tmp_path / "runs" / "little"))
    assert lines[0] == "little: grid search, 2 trials and 1 baseline, objective recall@1"
    assert any(line.startswith("0 trials are done") and line.endswith("2 to begin") for line in lines)
    assert "72 photographs; disk: 0.00 GB of decoded photographs (0.00 GB of them not there yet)" in lines[-1]
    assert not any("temperature" in line for line in lines), "one value is no axis"


def test_done_trials_are_counted_by_grid_cell(write_sweep: WriteSweep, finished: SweepResult) -> None:
    run = finished.folder
    assert trials_left(write_sweep(), read_records(run)) == 0
    assert trials_left(write_sweep("model.embedding_size=[16, 24, 32]"), read_records(run)) == 4
    searched = write_sweep("search.strategy=optuna", "search.trials=7")
    assert trials_left(searched, read_records(run)) == 5
    lines = "\n".join(forecast(write_sweep("model.embedding_size=[16, 24]"), run))
    assert "3 trials are done" in lines
    assert "2 to begin" in lines
    assert "baseline, frozen" in lines
    assert "(there already)" in lines


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("seed=[0, 1]", "model.embedding_size=[16, 24]"),
        ("loss=[{name: arcface, scale: [16, 30]}, {name: proxy_anchor}]",),
        ("loss=[{name: arcface, margin_degrees: {low: 20, high: 40, step: 10}}, {name: triplet}]",),
        ("train.epochs=[1, 2]", "model.embedding_size=24"),
        ("loss.name=[triplet, proxy_anchor]",),
    ],
)
def test_trials_left_are_the_cells_whose_identity_has_no_trial(
    write_sweep: WriteSweep, finished: SweepResult, options: tuple[str, ...]
) -> None:
    sweep, records = write_sweep(*options), read_records(finished.folder)
    known = {record.trial for record in records}
    fingerprint = records[0].data_fingerprint
    cells = [sweep.settings(point) for point in grid_points(sweep.axes)]
    missing = [cell for cell in cells if trial_identity(cell, data_fingerprint=fingerprint) not in known]
    assert trials_left(sweep, records) == len(missing)


def test_the_forecast_of_a_large_grid_makes_no_settings_of_its_cells(
    write_sweep: WriteSweep, finished: SweepResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    hundred = json.dumps(list(range(1, 101)))
    sweep = write_sweep(f"seed={hundred}", f"train.epochs={hundred}", "model.embedding_size=[16, 24, 32, 40, 48]")
    made: list[object] = []
    settings = type(sweep).settings
    monkeypatch.setattr(type(sweep), "settings", lambda self, point: made.append(point) or settings(self, point))
    lines = list(forecast(sweep, finished.folder))
    assert "100000 trials" in lines[0]
    assert len(made) < 20


def test_a_trial_that_does_not_fit_on_this_machine_is_reported(write_sweep: WriteSweep, tmp_path: Path) -> None:
    sweep = write_sweep("resources.cpus=4000")
    assert trials_at_once(sweep) == 0
    assert any("too few; lower resources.cpus" in line for line in forecast(sweep, tmp_path))
    assert trials_at_once(write_sweep("resources.cpus=0.5")) == 2 * trials_at_once(write_sweep())


def test_without_photographs_the_trials_are_still_listed(write_sweep: WriteSweep, tmp_path: Path) -> None:
    lines = list(forecast(write_sweep(f"data.root={tmp_path}/nowhere"), tmp_path))
    assert "2 trials" in lines[0]
    assert "the photographs cannot be used yet" in lines[-1]


def test_a_forecast_imports_no_library_that_it_does_not_need(photographs: Path, tmp_path: Path) -> None:
    """The limit of three seconds is the time that importing torch alone takes."""
    path = tmp_path / "little.yaml"
    path.write_text(SWEEP.replace("ROOT", str(photographs)))
    heavy = ("torch", "ray", "scipy", "sklearn", "joblib", "faiss", "cv2", "imagehash", "pillow_heif", "optuna")
    code = f"""
        import atexit, sys
        from whale_ray.sweep.command import main
        sys.argv = ["sweep", {str(path)!r}, "--runs", {str(tmp_path)!r}, "--dry-run"]
        atexit.register(lambda: print([name for name in {heavy} if name in sys.modules]))
        main()
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1] == "[]"


def test_the_estimate_grows_with_the_number_of_trials(write_sweep: WriteSweep) -> None:
    step = measure_step(first_settings(write_sweep()), threads=1)
    assert step.embed > 0
    assert step.train > 0
    assert step.weights > 1000
    *encoders, total = estimate(write_sweep(), trials=2, at_once=2)
    assert [line.split(":")[0] for line in encoders] == ["tiny at 32x64"]
    assert "for the 2 to train on this machine, 2 at a time" in total


@pytest.mark.parametrize("found", [False, True])
def test_a_file_that_is_no_network_is_refused(tmp_path: Path, found: bool) -> None:
    path, network = tmp_path / "sweep.yaml", tmp_path / "wrong.onnx"
    path.write_text(SWEEP.replace("ROOT", str(tmp_path)))
    if found:
        network.write_bytes(b"no model")
    options = ["--runs", str(tmp_path), "--dry-run", "--set", f"retrieval.local=[none,{network}]"]
    answer = CliRunner().invoke(application, ["sweep", str(path), *options])
    assert answer.exit_code == 2
    assert f"{network} cannot find keypoints: it must be an ONNX {'model' if found else 'file'}" in answer.stderr


@pytest.mark.slow
def test_a_finished_sweep_does_not_start_ray(
    write_sweep: WriteSweep, finished: SweepResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Connecting to an address without a cluster would fail."""
    shutil.copytree(finished.folder, tmp_path / "runs" / "little", symlinks=True)
    result = run_sweep(write_sweep(), runs=tmp_path / "runs", address="127.0.0.1:1")
    assert result.exit_code == 0
    assert "nothing is left to train: every trial that this sweep asks for has ended" in capsys.readouterr().out
    assert json.loads((result.folder / "best" / "bundle.json").read_text())["id"] == finished.bundle.name  # type: ignore[union-attr]
