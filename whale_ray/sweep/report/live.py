"""The report while its sweep runs: written anew, beside the sweep's own work, when trials have ended.

Knows when; what the page shows is `report`'s.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from whale_ray.sweep.report.page import write_report

_LEAST_SECONDS = 5.0
_REST = 10  # the share of its time that the writing may take is 1 in so many


class LiveReport:
    """Writes report.html in a thread of its own; used as a context, which ends when the last writing has.

    What changes while it writes is written the next time; it rests between, so that a sweep of quick trials is not
    spent on its report.
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
        """The run folder says something new."""
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
