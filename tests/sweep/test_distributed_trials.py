"""Trials that several workers train together on Ray."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
def test_two_workers_train_like_one_though_one_is_killed_and_a_stopped_trial_frees_both(
    write_sweep: Callable[..., Sweep], cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = write_sweep("resources.workers=2", "train.epochs=3", "train.precision=fp32")
    labels: dict[str, str] = {}
    killed: list[int] = []

    def may_continue(store: TrialStore, trial: str, figures: Mapping[str, Any]) -> bool:
        return "arcface" not in labels[trial]

    def kill_one(trial: str, figures: Mapping[str, Any]) -> None:
        if "proxy_anchor" in labels[trial] and not killed:
            workers = training_workers()
            assert len(workers) == 2  # the stopped trial has none
            killed.append(workers[-1].pid)
            workers[-1].kill()

    class Labels(RecordingProgress):
        def started(self, trial: str, label: str) -> None:
            labels[trial] = label
            super().started(trial, label)

    monkeypatch.setattr(TrialQueue, "_baselines", lambda queue: iter(()))  # each trial starts four processes
    monkeypatch.setattr(TrialStore, "may_continue", may_continue)
    result = run_sweep(sweep, runs=tmp_path / "two", progress=Labels(kill_one))
    assert killed
    table = result.table.set_index("loss.name")
    assert table.loc["arcface", "status"] == "pruned"
    assert table.loc["proxy_anchor", "status"] == "finished"
    wait_until(lambda: training_workers() == [], rest=0.2)

    monkeypatch.setattr(TrialStore, "may_continue", lambda *_: True)
    alone = write_sweep("resources.workers=2", "train.epochs=3", "train.precision=fp32", "loss.name=proxy_anchor")
    one = run_sweep(alone, runs=tmp_path / "one", in_process=True)
    trial = table.loc["proxy_anchor", "trial"]
    curves = [pd.read_csv(run.folder / "trials" / trial / "epochs.csv") for run in (result, one)]
    assert curves[0]["epoch"].tolist() == [1, 2, 3]
    assert curves[0]["loss"].to_list() == pytest.approx(curves[1]["loss"].to_list(), rel=1e-2)


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
