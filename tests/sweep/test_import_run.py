"""Import of finished trials: valid trials are scored again, and no file of the folder is trusted."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from whale_ray.errors import InputError
from whale_ray.sweep.execution.console import Progress
from whale_ray.sweep.execution.driver import SweepResult, run_sweep
from whale_ray.sweep.execution.import_run import import_run
from whale_ray.sweep.execution.preparation import check_inputs, prepare_dataset

if TYPE_CHECKING:
    from whale_ray.sweep.config.sweep_spec import Sweep
    from whale_ray.sweep.planning.dataset import Dataset

    WriteSweep = Callable[..., Sweep]

pytestmark = pytest.mark.integration


@pytest.fixture
def dataset(write_sweep: WriteSweep) -> Dataset:
    sweep = write_sweep()
    return prepare_dataset(sweep, check_inputs(sweep), Progress(sweep="little", objective="recall@1"))


@pytest.fixture
def source(finished: SweepResult, tmp_path: Path) -> Path:
    """A copy of the finished run folder that tests damage."""
    return shutil.copytree(finished.folder, tmp_path / "source", symlinks=True)


def a_trial(run: Path) -> Path:
    return next(path for path in sorted((run / "trials").iterdir()) if not path.name.startswith("baseline"))


def test_an_imported_run_has_nothing_left_to_train_and_the_same_leaderboard(
    finished: SweepResult, write_sweep: WriteSweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")}
    sweep = write_sweep("name=other")
    result = run_sweep(sweep, runs=tmp_path, import_from=finished.folder, address="127.0.0.1:1")
    output = capsys.readouterr().out
    assert f"3 trials imported from {finished.folder}" in output
    assert "nothing is left to train" in output
    pd.testing.assert_frame_equal(result.table, finished.table)
    assert result.bundle is not None
    assert {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")} == before
    run_sweep(sweep, runs=tmp_path, import_from=finished.folder, address="127.0.0.1:1")
    assert "0 trials imported" in (output := capsys.readouterr().out)
    assert "3 were here already" in output


def test_an_inflated_result_is_scored_again(source: Path, write_sweep: WriteSweep, dataset: Dataset) -> None:
    trial = a_trial(source)
    result = json.loads((trial / "result.json").read_text())
    (trial / "result.json").write_text(json.dumps(result | {"recall@1": 1.0, "extra": "=cmd|calc"}))
    import_run(source, source.parent / "ours", write_sweep(), dataset)
    ours = json.loads((source.parent / "ours" / "trials" / trial.name / "result.json").read_text())
    assert ours["recall@1"] == result["recall@1"] < 1.0
    assert "extra" not in ours


def test_only_known_files_are_copied(source: Path, write_sweep: WriteSweep, dataset: Dataset) -> None:
    trial = a_trial(source)
    (trial / "sitecustomize.py").write_text("raise SystemExit")
    (trial / "checkpoint" / "state.pt").write_bytes(pickle.dumps(print))
    os.symlink("/", trial / "root")
    done = import_run(source, source.parent / "ours", write_sweep(), dataset)
    assert len(done.taken) == 3
    taken = {
        str(path.relative_to(source.parent / "ours" / "trials" / trial.name))
        for path in (source.parent / "ours" / "trials" / trial.name).rglob("*")
        if path.is_file()
    }
    assert taken <= {
        "settings.json",
        "result.json",
        "epochs.csv",
        "retrieval.csv",
        "queries.parquet",
        "setting_queries.npz",
        "embeddings.npz",
        "checkpoint/encoder.safetensors",
        "checkpoint/recipe.json",
    }


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("trapped",)


def embeddings_of_objects(trial: Path) -> None:
    np.savez(trial / "embeddings.npz", plain=np.array([Trap()], dtype=object))


def embeddings_elsewhere(trial: Path) -> None:
    (trial / "embeddings.npz").rename(trial.parents[1] / "elsewhere.npz")
    os.symlink(trial.parents[1] / "elsewhere.npz", trial / "embeddings.npz")


def embeddings_compressed(trial: Path) -> None:
    np.savez_compressed(trial / "embeddings.npz", plain=np.zeros((10**6, 8), np.float16))


def other_settings(trial: Path) -> None:
    written = json.loads((trial / "settings.json").read_text())
    written["settings"]["train"]["epochs"] = 99
    (trial / "settings.json").write_text(json.dumps(written))


def pipe_for_a_result(trial: Path) -> None:
    (trial / "result.json").unlink()
    os.mkfifo(trial / "result.json")


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pickle among the arrays": (embeddings_of_objects, "cannot be read"),
    "a link out of the folder": (embeddings_elsewhere, "no regular file"),
    "arrays that unpack to any size": (embeddings_compressed, "compressed"),
    "embeddings that are cut": (lambda trial: (trial / "embeddings.npz").write_bytes(b"PK\x03\x04"), "cannot be read"),
    "settings of another sweep": (other_settings, "not among those of this sweep"),
    "settings that are no JSON": (lambda trial: (trial / "settings.json").write_text("{" * 9999), "cannot be read"),
    "settings that are a list": (lambda trial: (trial / "settings.json").write_text("[]"), "no mapping"),
    "no settings": (lambda trial: (trial / "settings.json").unlink(), "other photographs"),
    "a pipe for a result": (pipe_for_a_result, "no regular file"),
    "another encoder's weights": (
        lambda trial: (trial / "checkpoint" / "recipe.json").write_text('{"name": "hf:evil/model"}'),
        "another encoder",
    ),
    "weights that are a pickle": (
        lambda trial: (trial / "checkpoint" / "encoder.safetensors").write_bytes(pickle.dumps(Trap())),
        "weights cannot be read",
    ),
    "a curve of words": (lambda trial: (trial / "epochs.csv").write_text("epoch,loss\n=1+1,x\n"), "table of numbers"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_damaged_trials_are_reported_and_not_imported(
    case: str, source: Path, write_sweep: WriteSweep, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(source.parent)
    spoil, reason = HOSTILE[case]
    trial = a_trial(source)
    spoil(trial)
    ours = source.parent / "ours"
    done = import_run(source, ours, write_sweep(), dataset)
    assert done.refused.keys() == {trial.name}
    assert reason in done.refused[trial.name]
    assert len(done.taken) == 2
    assert not (ours / "trials" / trial.name).exists()
    assert not list(ours.glob("trials/.*"))
    assert not (source.parent / "trapped").exists()


def test_a_trial_is_identified_by_its_settings_and_not_by_its_folder_name(
    source: Path, write_sweep: WriteSweep, dataset: Dataset
) -> None:
    trial = a_trial(source)
    name = trial.name
    trial.rename(trial.with_name("..;rm -rf"))
    assert name in import_run(source, source.parent / "ours", write_sweep(), dataset).taken


def test_trials_of_other_photographs_are_not_imported(source: Path, write_sweep: WriteSweep, dataset: Dataset) -> None:
    for path in source.glob("trials/*/settings.json"):
        path.write_text(path.read_text().replace(dataset.fingerprint, "0" * 16))
    done = import_run(source, source.parent / "ours", write_sweep(), dataset)
    assert not done.taken
    assert set(done.refused.values()) == {"it was trained on other photographs or labels"}


def test_a_folder_that_is_no_run_folder_is_refused(source: Path, write_sweep: WriteSweep, dataset: Dataset) -> None:
    with pytest.raises(InputError, match="has none"):
        import_run(source / "trials", source.parent / "ours", write_sweep(), dataset)
    with pytest.raises(InputError, match="the sweep's own"):
        import_run(source, source, write_sweep(), dataset)
