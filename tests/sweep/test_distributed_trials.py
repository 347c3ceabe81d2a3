"""Trials that several workers train together on Ray."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import psutil
import pytest
from recording_progress import RecordingProgress
from waiting import wait_until

from whale_ray.sweep.execution.driver import run_sweep
from whale_ray.sweep.execution.trial_queue import TrialQueue
from whale_ray.sweep.execution.trial_store import TrialStore
from whale_ray.sweep.trials.distributed_run import is_lost_worker

if TYPE_CHECKING:
    from whale_ray.sweep.config.sweep_spec import Sweep


def training_workers() -> list[psutil.Process]:
    """Processes of Ray Train that this test session has started."""
    found = []
    for process in psutil.Process(os.getpid()).children(recursive=True):
        try:
            if any("RayTrainWorker" in word for word in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
def test_a_stopped_trial_ends_all_its_workers(
    write_sweep: Callable[..., Sweep], cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their losses are compared with one worker's, and one of them is killed, in tests/sweep/test_nodes_on_s3.py."""
    counts: list[int] = []
    monkeypatch.setattr(TrialQueue, "_baselines", lambda queue: iter(()))  # each trial starts four processes
    monkeypatch.setattr(TrialStore, "may_continue", lambda *_: False)
    sweep = write_sweep("resources.workers=2", "train.epochs=3", "loss.name=arcface")
    progress = RecordingProgress(lambda trial, figures: counts.append(len(training_workers())))
    result = run_sweep(sweep, runs=tmp_path, progress=progress)
    assert counts == [2]
    assert result.table["status"].tolist() == ["pruned"]
    wait_until(lambda: training_workers() == [], rest=0.2)
    assert pd.read_csv(result.folder / "trials" / result.table["trial"][0] / "epochs.csv")["epoch"].tolist() == [1]


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[../third_party/gloo/pair.cc:553] Connection closed by peer [127.0.0.1]:1"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GB"), False),
        (ValueError("NCCL"), False),
    ],
)
def test_a_lost_connection_is_a_lost_worker_and_an_error_of_the_training_is_not(error: Exception, lost: bool) -> None:
    assert is_lost_worker(error) is lost
