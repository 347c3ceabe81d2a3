"""Verbosity of the command line: `--quiet`, the default, `--verbose`, and progress."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from operator import length_hint
from typing import TypeVar

SECONDS_PER_LINE = 30.0
"""Time between two lines of progress where the output is no terminal."""
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
    """Return the steps and show their progress.

    On a terminal it is a bar that disappears after the last step. Elsewhere, such as in the log of a cluster's job,
    it is a line on standard error every half minute, so that short work writes nothing.

    Args:
        steps: The steps.
        text: Text before the bar.
        progress: Show the progress.
        total: Number of steps; None takes their length.
        stderr: Write the bar to standard error.
    """
    if not progress:
        return steps
    from rich.console import Console  # slow to import, and most commands show no bar
    from rich.progress import track

    console = Console(stderr=stderr)
    if console.is_terminal:
        return track(steps, text, total=total, transient=True, console=console)
    return _print_progress(steps, text, length_hint(steps) if total is None else total)


def _print_progress(steps: Iterable[_Step], text: str, total: int) -> Iterator[_Step]:
    """Yield the steps and print their number every `SECONDS_PER_LINE`; a total of 0 is unknown."""
    printed = time.monotonic()
    for done, step in enumerate(steps):
        if time.monotonic() - printed >= SECONDS_PER_LINE:
            print(f"{text}: {done:,}" + (f" of {total:,}" if total else ""), file=sys.stderr, flush=True)
            printed = time.monotonic()
        yield step
