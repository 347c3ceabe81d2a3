"""Progress: every step is given on, a terminal shows a bar, and a log a line now and then."""

from __future__ import annotations

import pytest
import rich.console

from whale_ray import verbosity
from whale_ray.verbosity import track_steps


@pytest.mark.parametrize("progress", [True, False])
@pytest.mark.parametrize("terminal", [True, False])
def test_every_step_is_given_on_and_only_a_terminal_shows_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], progress: bool, terminal: bool
) -> None:
    monkeypatch.setattr(rich.console.Console, "is_terminal", property(lambda console: terminal))
    assert list(track_steps(iter("abc"), "counting letters", progress=progress, total=3, stderr=True)) == [
        "a",
        "b",
        "c",
    ]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert ("counting letters" in printed.err) == (progress and terminal)


@pytest.mark.parametrize(("total", "of"), [(3, " of 3"), (None, "")])
def test_a_log_has_lines_of_progress_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], total: int | None, of: str
) -> None:
    monkeypatch.setattr(verbosity, "SECONDS_PER_LINE", 0.0)
    assert list(track_steps((letter for letter in "abc"), "drawing", progress=True, total=total)) == ["a", "b", "c"]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [f"drawing: {done}{of}" for done in range(3)]
