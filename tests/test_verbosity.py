"""Progress bars: every step is given on, and only a terminal shows a bar."""

from __future__ import annotations

import pytest
import rich.console

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
