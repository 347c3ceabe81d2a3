"""Sweeps killed with SIGKILL at random moments resume and end with the table of an undisturbed sweep."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pandas as pd
import psutil
import pytest
from small_sweep import SWEEP

from whale_ray.sweep.config.sweep_spec import load_sweep
from whale_ray.sweep.execution.driver import run_sweep

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
KILLS = 2
GRID = ("loss.name=[arcface, supcon]", "model.embedding_size=[8, 16]", "train.epochs=30", "resources.cpus=1")
SEARCH = (
    *("search.strategy=optuna", "search.trials=6", "train.learning_rate={low: 1.0e-4, high: 1.0e-2, log: true}"),
    *("loss.name=arcface", "train.epochs=20", "resources.cpus=1"),
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
        if "whale_ray.sweep" in " ".join(child.cmdline()):
            child.kill()


def start(file: Path, runs: Path, options: tuple[str, ...]) -> subprocess.Popen[bytes]:
    settings = [word for option in options for word in ("--set", option)]
    command = [sys.executable, "-m", "whale_ray.sweep", str(file), "--runs", str(runs), *settings]
    with (runs.parent / f"{runs.name}.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def kill_all(driver: subprocess.Popen[bytes]) -> None:
    """Kill the driver and its Ray processes at once, as a power cut would."""
    family = psutil.Process(driver.pid).children(recursive=True)
    for process in (*family, psutil.Process(driver.pid)):
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    driver.wait()


def interrupted(file: Path, runs: Path, options: tuple[str, ...], *, kills: int, seed: int) -> int:
    """Kill drivers at random moments after their run folder is in use; return how many."""
    drawn = random.Random(seed)
    done = 0
    for _ in range(kills):
        driver = start(file, runs, options)
        waited_until = time.monotonic() + 60
        marks = len(list(runs.glob("*/trials/*/alive")))
        while driver.poll() is None and time.monotonic() < waited_until and marks == 0:
            time.sleep(0.05)
            marks = sum(time.time() - path.stat().st_mtime < 2 for path in _existing(runs))
        time.sleep(drawn.uniform(0.1, 1.5))
        if driver.poll() is not None:
            break
        if done % 2:
            driver.send_signal(signal.SIGKILL)
            driver.wait()
        else:
            kill_all(driver)
        done += 1
    return done


def _existing(runs: Path) -> list[Path]:
    return [path for path in runs.glob("*/trials/*/alive") if path.exists()]


def scores(runs: Path) -> pd.DataFrame:
    table = pd.read_csv(runs / "little" / "leaderboard.csv")
    return table.drop(columns="seconds")


def test_a_grid_killed_at_random_moments_ends_with_the_table_of_an_undisturbed_one(
    file: Path, tmp_path: Path, alone: None
) -> None:
    run_sweep(load_sweep(file, GRID), runs=tmp_path / "whole", in_process=True)
    killed = interrupted(file, tmp_path / "runs", GRID, kills=KILLS, seed=1)
    assert start(file, tmp_path / "runs", GRID).wait() == 0
    assert killed == KILLS
    pd.testing.assert_frame_equal(scores(tmp_path / "runs"), scores(tmp_path / "whole"), check_exact=True)
    for path in (tmp_path / "runs").glob("little/trials/*/epochs.csv"):
        assert pd.read_csv(path)["epoch"].tolist() == list(range(1, 31))


def test_a_search_killed_at_random_moments_trains_no_trial_twice_and_loses_none(
    file: Path, tmp_path: Path, alone: None
) -> None:
    killed = interrupted(file, tmp_path / "runs", SEARCH, kills=KILLS, seed=2)
    assert killed == KILLS
    folder = tmp_path / "runs" / "little"
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/result.json")}
    shutil.copytree(folder, tmp_path / "before")
    assert start(file, tmp_path / "runs", SEARCH).wait() == 0
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    trials = [path.parent.name for path in folder.glob("trials/*/result.json")]
    begun = {path.name for path in (tmp_path / "before" / "trials").iterdir()}
    assert begun <= set(trials)
    searched = [trial for trial in trials if not trial.startswith("baseline")]
    assert len(searched) == 6
    study = optuna.load_study(study_name="little", storage=f"sqlite:///{folder / 'study.db'}")
    reported = [one.user_attrs["trial"] for one in study.trials if "trial" in one.user_attrs]
    assert sorted(reported) == sorted(searched)
    for trial in searched:
        assert pd.read_csv(folder / "trials" / trial / "epochs.csv")["epoch"].tolist() == list(range(1, 21))
