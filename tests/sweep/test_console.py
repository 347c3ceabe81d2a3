"""Lines that a sweep prints where no terminal shows the live table."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from whale_ray.sweep.execution.console import Progress


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
