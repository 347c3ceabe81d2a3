"""Truncated, foreign and damaged files in a run folder: a clear message, and nothing lost."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import pandas as pd
import pytest
from recording_progress import RecordingProgress

from whale_ray.errors import InputError
from whale_ray.sweep.execution.driver import SweepResult, run_sweep
from whale_ray.sweep.run_folder.lock import claimed

if TYPE_CHECKING:
    from whale_ray.sweep.config.sweep_spec import Sweep

    WriteSweep = Callable[..., Sweep]

pytestmark = pytest.mark.integration

NOBODY = "127.0.0.1:1"  # an address at which no cluster answers: nothing may be trained


@pytest.fixture
def run(finished: SweepResult, tmp_path: Path) -> Path:
    """A copy of the finished run, to be spoiled."""
    return shutil.copytree(finished.folder, tmp_path / "little", symlinks=True)


def cut(path: Path, share: float = 0.5) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


@pytest.mark.parametrize("name", ["settings.json", "result.json"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_trial_with_truncated_records_is_named_and_the_sweep_is_refused(
    name: str, share: float, run: Path, write_sweep: WriteSweep
) -> None:
    spoiled = sorted(run.glob(f"trials/*/{name}"))[0]
    cut(spoiled, share)
    with pytest.raises(InputError, match=rf"must be whole.* {spoiled.parent} .*Move that folder away"):
        run_sweep(write_sweep(), runs=run.parent, address=NOBODY)
    assert len(list((run / "trials").iterdir())) == 3


def test_a_truncated_leaderboard_is_rewritten(run: Path, finished: SweepResult, write_sweep: WriteSweep) -> None:
    cut(run / "leaderboard.csv")
    run_sweep(write_sweep(), runs=run.parent, address=NOBODY)
    assert (run / "leaderboard.csv").read_text() == (finished.folder / "leaderboard.csv").read_text()


@pytest.mark.parametrize("content", [b"", b"a text", None], ids=["empty", "a text", "cut"])
def test_a_damaged_study_is_rebuilt_from_the_trials(
    content: bytes | None, run: Path, write_sweep: WriteSweep, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is None:
        cut(run / "study.db")
    else:
        (run / "study.db").write_bytes(content)
    run_sweep(write_sweep(), runs=run.parent, address=NOBODY)
    study = optuna.load_study(study_name="little", storage=f"sqlite:///{run / 'study.db'}")
    assert [one.state.name for one in study.trials] == ["COMPLETE"] * 2
    if content != b"":  # SQLite takes an empty file for an empty database
        assert "study.db was damaged; it is kept as" in capsys.readouterr().out
        assert len(list(run.glob("study.damaged.*"))) == 1


def test_a_foreign_folder_is_refused_and_unchanged(write_sweep: WriteSweep, tmp_path: Path) -> None:
    folder = tmp_path / "little"
    folder.mkdir()
    (folder / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match=r"must be a sweep's own, but holds something else \(thesis.tex\)"):
        run_sweep(write_sweep(), runs=tmp_path, in_process=True)
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def test_the_run_folder_of_another_project_is_refused(write_sweep: WriteSweep, tmp_path: Path) -> None:
    trial = tmp_path / "little" / "trials" / "exp_0"
    trial.mkdir(parents=True)
    (tmp_path / "little" / "sweep.yaml").write_text("program: train.py\n")
    (trial / "settings.json").write_text('{"lr": 0.1}')
    with pytest.raises(InputError, match="of another project: KeyError 'kind'"):
        run_sweep(write_sweep(), runs=tmp_path, in_process=True)


def test_an_empty_folder_becomes_a_run_folder(tmp_path: Path) -> None:
    (tmp_path / "little").mkdir()
    with claimed(tmp_path / "little"):
        pass


@pytest.mark.slow
def test_a_truncated_checkpoint_is_set_aside_and_the_trial_restarts(
    write_sweep: WriteSweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = write_sweep("loss.name=arcface", "train.epochs=4")
    stopping = threading.Event()
    stopped = run_sweep(
        sweep, runs=tmp_path, stopping=stopping, progress=RecordingProgress(lambda *_: stopping.set()), in_process=True
    )
    assert stopped.interrupted
    (state,) = stopped.folder.glob("trials/*/checkpoint/state.pt")
    cut(state)
    ended = run_sweep(sweep, runs=tmp_path, in_process=True)
    assert ended.exit_code == 0
    assert "the checkpoint could not be read (RuntimeError) and lies aside in" in capsys.readouterr().out
    whole = run_sweep(sweep, runs=tmp_path / "whole", in_process=True)
    columns = ["trial", "recall@1", "map@5", "recall@1_low"]
    pd.testing.assert_frame_equal(ended.table[columns], whole.table[columns])


def test_a_read_only_disk_is_refused_before_the_start(run: Path, write_sweep: WriteSweep) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=50m", "tmpfs", str(run.parent / "disk")]
    (run.parent / "disk").mkdir()
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        shutil.copytree(run, run.parent / "disk" / "little", symlinks=True)
        subprocess.run(["mount", "-o", "remount,ro", str(run.parent / "disk")], check=True)
        for name in ("little", "other"):
            with pytest.raises(InputError, match=r"must be writable, but: .*Read-only.* Choose another with --runs"):
                run_sweep(write_sweep(f"name={name}"), runs=run.parent / "disk", in_process=True)
        assert (run.parent / "disk" / "little" / "leaderboard.csv").read_bytes()
    finally:
        subprocess.run(["umount", "--lazy", str(run.parent / "disk")], check=True)
