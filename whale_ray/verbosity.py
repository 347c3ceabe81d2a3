"""Verbosity of the command line: `--quiet`, the default, `--verbose`, and progress bars."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TypeVar

_LOGGER = logging.getLogger("whale_ray")
_Step = TypeVar("_Step")


def set_verbosity(*, verbose: bool, quiet: bool) -> None:
    """Set the level of the `whale_ray` logger: DEBUG with `verbose`, WARNING with `quiet`, else INFO.

    Args:
        verbose: Also write log records of level DEBUG to standard error.
        quiet: Write results, warnings and errors only. `verbose` wins if both are given.
    """
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    _LOGGER.setLevel(level)
    if verbose and not _LOGGER.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        _LOGGER.addHandler(handler)


def is_quiet() -> bool:
    """Return whether progress output is switched off."""
    return _LOGGER.level == logging.WARNING


def track_steps(
    steps: Iterable[_Step], text: str, *, progress: bool, total: int | None = None, stderr: bool = False
) -> Iterable[_Step]:
    """Return the steps behind a progress bar, which disappears after the last one.

    Args:
        steps: The steps.
        text: Text before the bar.
        progress: Show the bar, if the output is a terminal: elsewhere rich prints empty lines.
        total: Number of steps; None takes their length.
        stderr: Write to standard error.
    """
    if not progress:
        return steps
    from rich.console import Console  # slow to import, and most commands show no bar
    from rich.progress import track

    console = Console(stderr=stderr)
    return track(steps, text, total=total, transient=True, console=console) if console.is_terminal else steps
