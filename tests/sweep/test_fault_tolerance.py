"""Faults during a sweep: trials that fail or hang, lost workers, full disks."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from recording_progress import RecordingProgress
from small_sweep import SWEEP

from whale_ray.sweep.config.sweep_spec import Sweep
from whale_ray.sweep.execution.driver import run_sweep
from whale_ray.sweep.run_folder.heartbeat import read_heartbeat

if TYPE_CHECKING:
    WriteSweep = Callable[..., Sweep]

pytestmark = pytest.mark.slow
SECONDS = "resources.stall_minutes=0.5"


class WorkerSignals(RecordingProgress):
    """Acts on the worker of a trial with a given learning rate after its first epoch."""

    def __init__(self, deeds: Mapping[str, Callable[[int], None]]) -> None:
        super().__init__(self._sabotage)
        self._deeds = dict(deeds)
        self._labels: dict[str, str] = {}

    def started(self, trial: str, label: str) -> None:
        self._labels[trial] = label
        super().started(trial, label)

    def _sabotage(self, trial: str, figures: Mapping[str, Any]) -> None:
        for word in [word for word in self._deeds if word in self._labels[trial]]:
            self._deeds.pop(word)(figures["pid"])


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def freeze(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def test_one_nan_one_killed_worker_and_one_that_stalls_leave_a_bundle_and_exit_three(
    write_sweep: WriteSweep, cluster: str, tmp_path: Path
) -> None:
    rates = "train.learning_rate=[1.0e-3, 2.0e-3, 3.0e-3, 1.0e+30]"
    sweep = write_sweep("loss.name=arcface", rates, "train.epochs=3", SECONDS)
    progress = WorkerSignals({"0.001": kill, "0.002": freeze})
    result = run_sweep(sweep, runs=tmp_path, progress=progress)
    assert result.exit_code == 3
    assert result.bundle
    table = result.table.set_index("train.learning_rate")
    assert table["status"].drop(float("nan"), errors="ignore").loc[[1e-3, 2e-3, 3e-3]].tolist() == ["finished"] * 3
    assert table.loc[1e30, "status"] == "failed"
    assert "must be finite" in table.loc[1e30, "error"]
    assert (result.folder / "trials" / table.loc[1e30, "trial"] / "traceback.txt").exists()
    for trial in table.loc[[1e-3, 2e-3, 3e-3], "trial"]:
        epochs = pd.read_csv(result.folder / "trials" / trial / "epochs.csv")
        assert epochs["epoch"].tolist() == [1, 2, 3]
        assert [number for name, number in progress.epochs if name == trial].count(1) == 1
        assert not (result.folder / "trials" / trial / "alive").exists()


def test_a_trial_that_hangs_twice_fails_with_its_reason_and_the_sweep_continues(
    write_sweep: WriteSweep, cluster: str, tmp_path: Path
) -> None:
    sweep = write_sweep("loss.name=[arcface, supcon]", "train.epochs=2", SECONDS)

    class Hanging(RecordingProgress):
        """Puts a pipe without a writer in the place of the checkpoint of each supcon trial."""

        def started(self, trial: str, label: str) -> None:
            super().started(trial, label)
            folder = tmp_path / "little" / "trials" / trial / "checkpoint"
            if "supcon" in label and not folder.exists():
                folder.mkdir()
                os.mkfifo(folder / "state.pt")

    result = run_sweep(sweep, runs=tmp_path, progress=Hanging())
    assert result.exit_code == 3
    assert result.bundle
    failed = result.table[result.table["status"] == "failed"].iloc[0]
    assert failed["loss.name"] == "supcon"
    assert failed["error"] == "no heartbeat for 0.5 minutes, 2 times"
    assert "no heartbeat" in (result.folder / "trials" / failed["trial"] / "traceback.txt").read_text()
    assert result.table["status"].tolist().count("finished") == 2


def test_a_trial_that_keeps_losing_its_worker_fails_with_its_reason(
    write_sweep: WriteSweep, cluster: str, tmp_path: Path
) -> None:
    result_of: list[int] = []

    def kill_always(trial: str, figures: Mapping[str, Any]) -> None:
        result_of.append(figures["epoch"])
        kill(figures["pid"])

    result = run_sweep(
        write_sweep("loss.name=arcface", "train.epochs=9"), runs=tmp_path, progress=RecordingProgress(kill_always)
    )
    assert len(result_of) == 3
    row = result.table[result.table["status"] == "failed"].iloc[0]
    assert row["error"] == "its worker was lost 3 times"
    assert (result.folder / "trials" / row["trial"] / "traceback.txt").read_text()
    assert result.exit_code == 3


def test_no_trial_starts_while_the_disk_is_too_full(write_sweep: WriteSweep, cluster: str, tmp_path: Path) -> None:
    stopping = threading.Event()
    messages: list[str] = []

    class Waiting(RecordingProgress):
        def say(self, text: str) -> None:
            messages.append(text)
            if "no trial starts until space is free" in text:
                threading.Timer(1.0, stopping.set).start()

    progress = Waiting()
    result = run_sweep(write_sweep("resources.min_free_gb=1.0e+9"), runs=tmp_path, progress=progress, stopping=stopping)
    assert result.exit_code == 130
    assert progress.begun == []
    assert [line for line in messages if "min_free_gb" in line] == [
        messages[[("min_free_gb" in one) for one in messages].index(True)]
    ]


def test_a_running_trial_records_its_process_and_node(write_sweep: WriteSweep, tmp_path: Path) -> None:
    found: list[Any] = []

    def look(trial: str, figures: Mapping[str, Any]) -> None:
        place = read_heartbeat(tmp_path / "little" / "trials" / trial)
        found.append(place and place["pid"] == os.getpid())

    run_sweep(
        write_sweep("loss.name=arcface", "train.epochs=2"),
        runs=tmp_path,
        progress=RecordingProgress(look),
        in_process=True,
    )
    assert found == [True, True]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk_leaves_trials_unfinished_and_the_sweep_resumes_once_space_is_free(
    write_sweep: WriteSweep, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o"]
    if subprocess.run([*mount, "size=300k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        sweep = write_sweep("resources.min_free_gb=0")
        progress = RecordingProgress()
        with contextlib.suppress(OSError):
            full = run_sweep(sweep, runs=disk, progress=progress, in_process=True)
            assert full.interrupted
            assert "failed" not in set(full.table["status"])
        subprocess.run([*mount, "remount,size=100m", str(disk)], check=True)
        result = run_sweep(sweep, runs=disk, in_process=True)
        assert result.exit_code == 0
        assert set(result.table["status"]) == {"finished"}
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_worker_that_does_not_end_a_pruned_trial_loses_no_other(photographs: Path, tmp_path: Path) -> None:
    """Tune drops a trial without a callback if its worker is not free in time; the timeout here is 0."""
    file = tmp_path / "little.yaml"
    file.write_text(SWEEP.replace("ROOT", str(photographs)))
    search = ("strategy=random", "trials=6", "scheduler=asha", "grace=1", "reduction_factor=2", "objective=map@5")
    train = ("train.epochs=4", "train.learning_rate={low: 1.0e-6, high: 1.0e-2, log: true}")
    options = [f"search.{one}" for one in search] + [*train, "resources.cpus=2"]
    command = [sys.executable, "-m", "whale_ray.sweep", str(file), "--runs", str(tmp_path)]
    for option in options:
        command += ["--set", option]
    done = subprocess.run(
        command,
        env=os.environ | {"TUNE_FUNCTION_THREAD_TIMEOUT_S": "0"},
        capture_output=True,
        text=True,
        timeout=540,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lost its worker before it started" in done.stdout
    board = pd.read_csv(tmp_path / "little" / "leaderboard.csv")
    assert len(board) == 7
    assert set(board["status"]) == {"finished", "pruned"}
