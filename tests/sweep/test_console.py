"""Lines that a sweep prints where no terminal shows the live table."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from whale_ray.sweep.execution.console import Progress, leaderboard_table
from whale_ray.sweep.run_folder.leaderboard import leaderboard
from whale_ray.sweep.run_folder.records import Record


@pytest.fixture
def progress() -> Progress:
    return Progress(sweep="little", objective="recall@1", total=4, console=Console(file=io.StringIO(), width=200))


def printed(progress: Progress) -> list[str]:
    file = progress.console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue().splitlines()


@pytest.mark.parametrize(
    ("label", "start", "end"),
    [
        ("loss arcface", "trial a1 starts: loss arcface", "trial a1 finished (1 of 4): recall@1 0.500  [loss arcface]"),
        ("", "trial a1 starts", "trial a1 finished (1 of 4): recall@1 0.500"),
    ],
)
def test_a_trial_is_printed_with_its_settings_if_it_has_any(
    progress: Progress, label: str, start: str, end: str
) -> None:
    progress.started("a1", label)
    progress.ended("a1", status="finished", score=0.5, error="")
    assert printed(progress) == [start, end]


def test_a_failed_trial_that_never_started_is_printed_with_its_error(progress: Progress) -> None:
    progress.ended("a1", status="failed", score=None, error="the disk is full")
    assert printed(progress) == ["trial a1 failed (1 of 4): the disk is full"]


@pytest.mark.parametrize(
    ("count", "lines"),
    [
        (0, []),
        (1, ["1 trial has ended before and is kept"]),
        (2, ["2 trials have ended before and are kept"]),
    ],
)
def test_the_trials_of_earlier_sessions_are_counted(progress: Progress, count: int, lines: list[str]) -> None:
    progress.earlier(count)
    assert printed(progress) == lines


@pytest.mark.parametrize(
    ("objective", "columns"),
    [
        ("recall@1", ["recall@1", "95 %", "map@5"]),
        ("map@5", ["recall@1", "95 %", "map@5"]),
        ("map@5_individuals", ["map@5_individuals", "recall@1", "95 %", "map@5"]),
        ("recall@4", ["recall@4", "recall@1", "95 %", "map@5"]),
    ],
)
def test_the_table_has_a_column_of_the_objective(objective: str, columns: list[str]) -> None:
    result = {"status": "finished", "recall@1": 0.5, "map@5": 0.25, "map@5_individuals": 0.125, "recall@4": 0.75}
    record = Record("a1", Path("a1"), "trial", {}, {}, "", result)
    table = leaderboard_table(leaderboard([record], axes=[], objective=objective), axes=[], objective=objective)
    assert [str(column.header) for column in table.columns][2:-3] == columns
    shown = [next(iter(column.cells)) for column in table.columns][2 : 2 + len(columns)]
    values = {name: f"{value:.3f}" for name, value in result.items() if name != "status"}
    assert shown == [values.get(name, "-") for name in columns]


@pytest.mark.parametrize(("local", "shown"), [("sift", "nearest + sift"), ("none", "nearest"), (None, "nearest")])
def test_the_table_names_the_keypoints_of_the_chosen_setting(local: str | None, shown: str) -> None:
    result = {"status": "finished", "vote": "nearest"} | ({} if local is None else {"local": local})
    board = leaderboard([Record("a1", Path("a1"), "trial", {}, {}, "", result)], axes=[], objective="recall@1")
    columns = leaderboard_table(board, axes=[]).columns
    assert [next(iter(column.cells)) for column in columns if column.header == "vote"] == [shown]
