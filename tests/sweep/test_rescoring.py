"""Rescoring from stored embeddings: equal to the leaderboard for the same settings."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from whale_ray.cli import application
from whale_ray.errors import InputError
from whale_ray.sweep.analysis.rescoring import score_again
from whale_ray.sweep.trials.embeddings_io import read_embeddings

if TYPE_CHECKING:
    from whale_ray.sweep.execution.driver import SweepResult

pytestmark = pytest.mark.integration


@pytest.fixture
def run(finished: SweepResult, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished.folder, tmp_path / "little", symlinks=True))


def test_rescoring_the_same_settings_equals_the_leaderboard(run: Path) -> None:
    score_again(run, [])
    assert (run / "rescored" / "leaderboard.csv").read_text() == (run / "leaderboard.csv").read_text()
    every = pd.read_csv(run / "rescored" / "retrieval.csv")
    for trial, rows in every.groupby("trial"):
        own = pd.read_csv(run / "trials" / str(trial) / "retrieval.csv")
        pd.testing.assert_frame_equal(rows.drop(columns="trial").reset_index(drop=True), own)


def test_new_settings_are_scored_without_training_and_the_runs_own_files_stay(run: Path) -> None:
    before = {path: path.read_bytes() for path in run.glob("**/*") if path.is_file()}
    board = score_again(run, ["vote=[majority, centroid]", "neighbours=[1, 2, 7]", "flip=[none, average]"])
    assert set(board["vote"]) <= {"majority", "centroid"}
    every = pd.read_csv(run / "rescored" / "retrieval.csv")
    assert len(every) == len(board) * (3 + 1) * 2
    assert set(every["flip"]) == {"none", "average"}
    assert {path: path.read_bytes() for path in before} == before


def test_the_command_prints_the_table_and_its_path(run: Path) -> None:
    result = CliRunner().invoke(application, ["report", str(run), "--retrieval", "vote=[centroid]"])
    assert result.exit_code == 0, result.output
    assert "centroid" in result.output
    for file in ("rescored/leaderboard.csv", "rescored/retrieval.csv", "report.html"):
        assert str(run / file) in result.output


@pytest.mark.parametrize(
    ("option", "message"),
    [("vote=[nearby]", "nearest"), ("votes=[nearest]", "vote"), ("neighbours={low: 1, high: 5}", "neighbours")],
)
def test_a_setting_that_does_not_exist_is_refused_with_the_nearest_one(run: Path, option: str, message: str) -> None:
    result = CliRunner().invoke(application, ["report", str(run), "--retrieval", option])
    assert result.exit_code == 2
    assert message in result.output
    assert not (run / "rescored").exists()


def test_pickled_embeddings_are_refused(run: Path) -> None:
    folder = next((run / "trials").iterdir())
    np.savez(folder / "embeddings.npz", plain=np.array([print], dtype=object))
    with pytest.raises(InputError, match=rf"{folder.name} must be whole"):
        read_embeddings(folder)
