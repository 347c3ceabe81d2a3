"""Sweeps killed with SIGKILL at random moments resume and end with the table of an undisturbed sweep.

In test_nodes_on_s3.py one sweep loses nodes and its head one after the other.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import optuna
import pandas as pd
import psutil
import pytest
from small_sweep import SWEEP
from waiting import wait_until

from whale_ray.sweep.config.sweep_spec import load_sweep
from whale_ray.sweep.execution.driver import run_sweep

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
EPOCHS = 12
# One retrieval setting, since kills come during training.
COMMON = (
    *(f"train.epochs={EPOCHS}", "resources.cpus=1", "retrieval.vote=nearest", "retrieval.neighbours=1"),
    *("retrieval.flip=none", "bundle.examples=0", "bundle.thumbnails=false"),
)
GRID = ("loss.name=[arcface, supcon]", "model.embedding_size=[8, 16]", *COMMON)
SEARCH = (
    *("search.strategy=optuna", "search.trials=5", "train.learning_rate={low: 1.0e-4, high: 1.0e-2, log: true}"),
    *("loss.name=arcface", *COMMON),
)


@pytest.fixture
def file(photographs: Path, tmp_path: Path) -> Path:
    path = tmp_path / "little.yaml"
    path.write_text(SWEEP.replace("ROOT", str(photographs)))
    return path


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """End all processes that the test has started."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    yield
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # Ray's processes end by themselves
            if "whale_ray.sweep" in " ".join(child.cmdline()):
                child.kill()


Kill = Callable[[subprocess.Popen[bytes]], None]


def start(file: Path, runs: Path, options: tuple[str, ...]) -> subprocess.Popen[bytes]:
    settings = [word for option in options for word in ("--set", option)]
    command = [sys.executable, "-m", "whale_ray.sweep", str(file), "--runs", str(runs), *settings]
    with (runs.parent / f"{runs.name}.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def kill_all(driver: subprocess.Popen[bytes]) -> None:
    """Kill the driver and its Ray processes at once, as a power cut would."""
    family = psutil.Process(driver.pid).children(recursive=True)
    for process in (*family, psutil.Process(driver.pid)):
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    driver.wait()


def kill_driver(driver: subprocess.Popen[bytes]) -> None:
    """Kill the driver alone: its Ray ends a little later."""
    driver.kill()
    driver.wait()


def interrupt(file: Path, runs: Path, options: tuple[str, ...], kill: Kill, *, seed: int) -> None:
    """Start a driver and kill it at a random moment after some epochs, in the middle of its first trials.

    If the sweep ends before, since this process got no time on a busy machine, another one starts.
    """
    moment = random.Random(seed)
    while not kill_after(moment.randint(1, EPOCHS // 3), moment, start(file, runs, options), runs, kill):
        shutil.rmtree(runs)


def kill_after(count: int, moment: random.Random, driver: subprocess.Popen[bytes], runs: Path, kill: Kill) -> bool:
    """Kill a driver after so many epochs; False if the sweep has ended before."""
    log = runs.parent / f"{runs.name}.log"
    wait_until(lambda: epochs(runs) >= count or driver.poll() is not None, said=log.read_text)
    time.sleep(moment.uniform(0, 0.2))
    if driver.poll() is None:
        kill(driver)
        return True
    assert driver.returncode == 0, log.read_text()
    return False


def epochs(runs: Path) -> int:
    """Return the number of epochs of all trials in the run folder."""
    return sum(max(path.read_text().count("\n") - 1, 0) for path in runs.glob("*/trials/*/epochs.csv"))


def scores(runs: Path) -> pd.DataFrame:
    table = pd.read_csv(runs / "little" / "leaderboard.csv")
    return table.drop(columns="seconds")


def test_a_grid_whose_driver_is_killed_at_a_random_moment_ends_with_the_table_of_an_undisturbed_one(
    file: Path, tmp_path: Path, alone: None
) -> None:
    run_sweep(load_sweep(file, GRID), runs=tmp_path / "whole", in_process=True)
    interrupt(file, tmp_path / "runs", GRID, kill_driver, seed=1)
    assert start(file, tmp_path / "runs", GRID).wait() == 0
    pd.testing.assert_frame_equal(scores(tmp_path / "runs"), scores(tmp_path / "whole"), check_exact=True)
    for path in (tmp_path / "runs").glob("little/trials/*/epochs.csv"):
        assert pd.read_csv(path)["epoch"].tolist() == list(range(1, EPOCHS + 1))


def test_a_search_killed_at_a_random_moment_trains_no_trial_twice_and_loses_none(
    file: Path, tmp_path: Path, alone: None
) -> None:
    interrupt(file, tmp_path / "runs", SEARCH, kill_all, seed=2)
    folder = tmp_path / "runs" / "little"
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/result.json")}
    shutil.copytree(folder, tmp_path / "before")
    assert start(file, tmp_path / "runs", SEARCH).wait() == 0
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    trials = [path.parent.name for path in folder.glob("trials/*/result.json")]
    begun = {path.name for path in (tmp_path / "before" / "trials").iterdir()}
    assert begun <= set(trials)
    searched = [trial for trial in trials if not trial.startswith("baseline")]
    assert len(searched) == 5
    study = optuna.load_study(study_name="little", storage=f"sqlite:///{folder / 'study.db'}")
    reported = [one.user_attrs["trial"] for one in study.trials if "trial" in one.user_attrs]
    assert sorted(reported) == sorted(searched)
    for trial in searched:
        assert pd.read_csv(folder / "trials" / trial / "epochs.csv")["epoch"].tolist() == list(range(1, EPOCHS + 1))
