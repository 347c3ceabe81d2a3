"""Ctrl-C and SIGTERM end a sweep at once, but while trials run the first signal lets their epochs end."""

from __future__ import annotations

import signal
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from whale_ray.sweep.command import run_and_show


def replace_run_sweep(monkeypatch: pytest.MonkeyPatch, *, in_trials: bool, signals: list[int]) -> list[str]:
    """Let `run_sweep` receive signals; the returned list names what it did after each."""
    steps: list[str] = []

    def run_sweep(plan: Any, *, progress: Any, stopping: Any, **options: Any) -> SimpleNamespace:
        with progress.trials() if in_trials else nullcontext():
            for number in signals:
                handler = signal.getsignal(number)
                assert callable(handler)
                handler(number, None)  # a signal to this process would reach other libraries of the tests, too
                steps.append("stopping" if stopping.is_set() else "not asked to stop")
        table = pd.DataFrame({"status": ["finished"], "kind": ["trial"]})
        results = {"table": table, "folder": Path("runs"), "report": "", "url": None, "bundle": None}
        return SimpleNamespace(**results, interrupted=stopping.is_set(), exit_code=130, no_node="")

    monkeypatch.setattr("whale_ray.sweep.execution.driver.run_sweep", run_sweep)
    monkeypatch.setattr("whale_ray.sweep.execution.console.leaderboard_table", lambda *_, **__: "")
    return steps


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("in_trials", "signals", "steps"), [(False, 1, 0), (True, 1, 1), (True, 2, 1)])
def test_the_first_signal_waits_for_epochs_only_while_trials_run(
    number: int,
    in_trials: bool,
    signals: int,
    steps: int,
    monkeypatch: pytest.MonkeyPatch,
    write_sweep: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    done = replace_run_sweep(monkeypatch, in_trials=in_trials, signals=[number] * signals)
    assert run_and_show(write_sweep()) == 130
    assert done == ["stopping"] * steps
    printed = capsys.readouterr().out
    assert "interrupted: finished trials are kept. Run the same command again to resume" in printed
    assert ("stopping: trials keep their last checkpoint" in printed) is in_trials
