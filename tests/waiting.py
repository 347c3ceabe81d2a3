"""Waits of tests: with a limit for what would hang, which a busy machine does not reach."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

SECONDS = 300.0


def wait_until(
    condition: Callable[[], object],
    *,
    rest: float = 0.02,
    said: Callable[[], object] = str,
    despite: tuple[type[Exception], ...] = (),
) -> None:
    """Return once the condition holds.

    Args:
        condition: What is waited for.
        rest: Seconds between two looks.
        said: Gives the text of the failure after SECONDS.
        despite: Errors of the condition while it does not hold yet.
    """
    limit = time.monotonic() + SECONDS
    while True:
        with suppress(*despite):
            if condition():
                return
        assert time.monotonic() < limit, said()
        time.sleep(rest)
