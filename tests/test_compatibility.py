"""A run folder and a bundle written by version 0.1 open with the code of today.

tests/fixtures/before_0_2.tar.xz: 40 drawn photographs, the sweep file and its run folder (a baseline and two trials of
`tiny`, one of them with class proxies), written by version 0.1.0.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import pandas as pd
import pytest

from whale_ray.inference.kaggle_submission import write_submission
from whale_ray.inference.predictor import Bundle
from whale_ray.sweep.config.sweep_spec import load_sweep
from whale_ray.sweep.report.page import write_report
from whale_ray.sweep.run_folder.records import read_records

ARCHIVE = Path(__file__).parent / "fixtures" / "before_0_2.tar.xz"
TRIALS = {"129cb24b", "4e014196", "baseline-81565622"}


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that held the sweep file; the current folder, as when the sweep ran."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def leaderboard(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "runs" / "before_0_2" / "leaderboard.csv").set_index("trial")


def test_records_of_an_older_run_are_read(old: Path) -> None:
    records = read_records(old / "runs" / "before_0_2")
    scores = leaderboard(old)["recall@1"]
    assert {record.trial for record in records} == TRIALS
    assert all(record.result["recall@1"] == scores[record.trial] for record in records)


def test_the_report_of_an_older_run_is_written(old: Path) -> None:
    page = write_report(old / "runs" / "before_0_2").read_text()
    assert all(trial in page for trial in TRIALS)


def test_an_older_bundle_identifies_and_submits(old: Path) -> None:
    bundle = Bundle.load(old / "runs" / "before_0_2" / "best")
    photographs = sorted((old / "data" / "test").iterdir())
    answers = bundle.identify(photographs)
    assert [len(answer.candidates) > 0 for answer in answers] == [True] * len(photographs)
    assert write_submission(bundle, old / "data" / "test", old / "out.csv").undecodable == {}
    assert len(pd.read_csv(old / "out.csv")) == len(photographs)


@pytest.mark.slow
def test_an_older_sweep_resumes_without_training(old: Path) -> None:
    from whale_ray.sweep.execution.driver import run_sweep

    before = leaderboard(old)
    ended = {path: path.stat().st_mtime_ns for path in old.glob("runs/*/trials/*/epochs.csv")}
    run_sweep(load_sweep(old / "sweep.yaml", []), runs=old / "runs", in_process=True)
    after = leaderboard(old)
    pd.testing.assert_frame_equal(after[list(before.columns)], before)
    added = [f"{score}_individuals" for score in ("map@5", "recall@1")]  # scored again from the embeddings
    assert after[added].notna().all(axis=None)
    assert {path: path.stat().st_mtime_ns for path in old.glob("runs/*/trials/*/epochs.csv")} == ended


@pytest.mark.slow
def test_trials_of_an_older_run_are_rescored_without_training(old: Path) -> None:
    from whale_ray.sweep.execution.driver import run_sweep

    ended = {path: path.stat().st_mtime_ns for path in old.glob("runs/*/trials/*/epochs.csv")}
    options = ["retrieval.neighbours=[1, 2, 5]", "retrieval.classifier_weight=[0, 0.5]"]
    run_sweep(load_sweep(old / "sweep.yaml", options), runs=old / "runs", in_process=True)
    scored = pd.read_csv(old / "runs" / "before_0_2" / "trials" / "129cb24b" / "retrieval.csv")
    assert set(scored["classifier_weight"]) == {0.0, 0.5}
    assert {path: path.stat().st_mtime_ns for path in old.glob("runs/*/trials/*/epochs.csv")} == ended
