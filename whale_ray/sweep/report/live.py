"""Live report: writes report.html again in the background while a sweep runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from whale_ray.sweep.report.page import write_report

_LEAST_SECONDS = 5.0
_REST = 30  # pause after a writing, as a multiple of its time


class LiveReport:
    """Writes report.html in a thread. As a context manager it ends when the last writing has ended.

    A change during a writing is written next time. Pauses keep short trials from being spent on reports.

    Args:
        run: The run folder.
        say: Prints a line for the user.
    """

    def __init__(self, run: Path, *, say: Callable[[str], None]) -> None:
        self._run, self._say = run, say
        self._changed, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="live report", daemon=True)

    def __enter__(self) -> LiveReport:
        self._changed.set()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._changed.set()
        self._thread.join()

    def changed(self) -> None:
        """Request a new report."""
        self._changed.set()

    def _work(self) -> None:
        while self._changed.wait() and not self._over.is_set():
            self._changed.clear()
            started = time.monotonic()
            try:
                write_report(self._run, live=True)
            except Exception as error:  # a picture that vanished must not end a sweep; the last report tells a person
                self._say(f"the report could not be written: {error}")
            self._over.wait(max(_LEAST_SECONDS, _REST * (time.monotonic() - started)))
