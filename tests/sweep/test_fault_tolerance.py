"""Faults during a sweep: trials that fail or hang, lost workers, full disks."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from recording_progress import RecordingProgress
from small_sweep import SWEEP

from whale_ray.sweep.config.sweep_spec import Sweep
from whale_ray.sweep.execution.driver import run_sweep
from whale_ray.sweep.execution.runners import tune_callback
from whale_ray.sweep.run_folder.heartbeat import StallDetector, read_heartbeat

if TYPE_CHECKING:
    WriteSweep = Callable[..., Sweep]

pytestmark = pytest.mark.slow
STALLED = "resources.stall_minutes=0.1"
HANGING, FROZEN, LOST, WITHOUT_NUMBER = 5e-3, 2e-3, 4e-3, 1e30  # learning rates


class Faults(RecordingProgress):
    """Disturbs the worker of a trial by its learning rate: one hangs, one is frozen, then killed, one killed always."""

    def __init__(self, runs: Path) -> None:
        super().__init__(self._disturb)
        self._trials = runs / "little" / "trials"
        self._labels: dict[str, str] = {}
        self.killed: list[float] = []
        self.stalled: list[float] = []

    def started(self, trial: str, label: str) -> None:
        self._labels[trial] = label
        super().started(trial, label)
        folder = self._trials / trial / "checkpoint"
        if label.endswith(str(HANGING)) and not folder.exists():
            folder.mkdir()
            os.mkfifo(folder / "state.pt")  # without a writer: who opens it waits

    def _disturb(self, trial: str, figures: Mapping[str, Any]) -> None:
        rate = self._rate_of(trial)
        if rate == LOST or (rate == FROZEN and self.killed.count(FROZEN) < 2):
            is_first = rate not in self.killed
            self.killed.append(rate)
            os.kill(figures["pid"], signal.SIGSTOP if rate == FROZEN and is_first else signal.SIGKILL)

    def _rate_of(self, trial: str) -> float:
        rates = (HANGING, FROZEN, LOST)
        return next((rate for rate in rates if self._labels.get(trial, "").endswith(str(rate))), 0.0)

    def stall_detector(self, minutes: float | None) -> StallDetector:
        """Return a detector of stalls that looks at the hanging and the frozen trial only.

        On a busy machine a worker that trains may give no heartbeat for many seconds.
        """
        detector, faults = StallDetector(minutes), self

        class DisturbedTrials:
            def find_stalled(self, folders: Mapping[str, Path]) -> Iterable[str]:
                looked_at = {trial: folder for trial, folder in folders.items() if faults._is_silent(trial)}
                for trial in detector.find_stalled(looked_at):
                    faults.stalled.append(faults._rate_of(trial))
                    yield trial

        return DisturbedTrials()  # type: ignore[return-value]

    def _is_silent(self, trial: str) -> bool:
        rate = self._rate_of(trial)
        return rate == HANGING or (rate == FROZEN and FROZEN in self.killed and FROZEN not in self.stalled)


def test_lost_and_stalled_workers_and_a_loss_of_nan_leave_a_bundle_and_each_failure_has_its_reason(
    write_sweep: WriteSweep, cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All in one sweep with four trials at once: while two of them give no heartbeat, the others train."""
    rates = f"train.learning_rate=[{HANGING}, {FROZEN}, {LOST}, 1.0e+30]"
    sweep = write_sweep("loss.name=arcface", rates, "train.epochs=9", "resources.cpus=0.5", STALLED)
    progress = Faults(tmp_path)
    monkeypatch.setattr(tune_callback, "StallDetector", progress.stall_detector)
    result = run_sweep(sweep, runs=tmp_path, progress=progress)
    assert sorted(progress.killed) == [FROZEN, FROZEN, LOST, LOST, LOST]
    assert sorted(progress.stalled) == [FROZEN, HANGING, HANGING]
    assert result.exit_code == 3
    assert result.bundle
    table = result.table[result.table["kind"] == "trial"].set_index("train.learning_rate")

    assert table["status"][FROZEN] == "finished"
    trial = table["trial"][FROZEN]
    epochs = pd.read_csv(result.folder / "trials" / trial / "epochs.csv")
    assert epochs["epoch"].tolist() == list(range(1, 10))
    assert [number for name, number in progress.epochs if name == trial].count(1) == 1
    assert not (result.folder / "trials" / trial / "alive").exists()

    failed = table.loc[[HANGING, LOST, WITHOUT_NUMBER]]
    assert failed["status"].tolist() == ["failed"] * 3
    assert failed["error"].tolist()[:2] == ["no heartbeat for 0.1 minutes, 2 times", "its worker was lost 3 times"]
    assert "must be finite" in failed["error"].iloc[2]
    traces = [(result.folder / "trials" / trial / "traceback.txt").read_text() for trial in failed["trial"]]
    assert all(traces)
    assert "no heartbeat" in traces[0]


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
    search = ("scheduler=asha", "grace=1", "reduction_factor=2", "objective=map@5")
    train = ("train.epochs=4", "train.learning_rate=[2.0e-3, 3.0e-3, 1.0e-6]", "loss.name=arcface")
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
    assert len(board) == 4
    assert set(board["status"]) == {"finished", "pruned"}
