"""The service's figures as Ray's metrics, which Prometheus scrapes; Ray puts `ray_` before each name.

Knows ray.util.metrics and the figures of `telemetry`.
"""

from __future__ import annotations

import time
from queue import SimpleQueue
from threading import Thread

from ray.util.metrics import Counter, Histogram

from whale_ray.serving.metrics import FIGURES

_SECONDS = 1.0


class RayMetrics:
    """Hands figures to Ray, once a second and on a thread of its own.

    Each figure that Ray takes lets go of Python's lock and then waits for it, which no call should.
    """

    def __init__(self) -> None:
        self._counters = {
            name: Counter(name, figure.said, tag_keys=figure.tags)
            for name, figure in FIGURES.items()
            if not figure.edges
        }
        self._histograms = {
            name: Histogram(name, figure.said, boundaries=list(figure.edges), tag_keys=figure.tags)
            for name, figure in FIGURES.items()
            if figure.edges
        }
        self._waiting: SimpleQueue[tuple[str, float, dict[str, str]]] = SimpleQueue()
        Thread(target=self._hand_on_for_ever, name="metrics", daemon=True).start()

    def add(self, name: str, value: float, tags: dict[str, str]) -> None:
        """Counts, or observes, `value`."""
        self._waiting.put((name, value, tags))

    def _hand_on_for_ever(self) -> None:
        while True:
            time.sleep(_SECONDS)
            for _ in range(self._waiting.qsize()):
                self._hand_on(*self._waiting.get())

    def _hand_on(self, name: str, value: float, tags: dict[str, str]) -> None:
        if name in self._counters:
            self._counters[name].inc(value, tags)
        else:
            self._histograms[name].observe(value, tags)
