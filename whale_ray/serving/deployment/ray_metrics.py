"""Metrics of the service as Ray metrics, which Prometheus scrapes; Ray puts `ray_` before each name."""

from __future__ import annotations

import time
from queue import SimpleQueue
from threading import Thread

from ray.util.metrics import Counter, Histogram

from whale_ray.serving.metrics import METRICS

_SECONDS = 1.0


class RayMetrics:
    """Sends metrics to Ray once a second, on a background thread.

    Each metric that Ray takes releases Python's lock and waits to get it back, which must not delay a call.
    """

    def __init__(self) -> None:
        self._counters = {
            name: Counter(name, figure.description, tag_keys=figure.tags)
            for name, figure in METRICS.items()
            if not figure.edges
        }
        self._histograms = {
            name: Histogram(name, figure.description, boundaries=list(figure.edges), tag_keys=figure.tags)
            for name, figure in METRICS.items()
            if figure.edges
        }
        self._queue: SimpleQueue[tuple[str, float, dict[str, str]]] = SimpleQueue()
        Thread(target=self._send_forever, name="metrics", daemon=True).start()

    def add(self, name: str, value: float, tags: dict[str, str]) -> None:
        """Add to a counter, or observe a value of a histogram.

        Args:
            name: A name of METRICS.
            value: Increment of the counter, or observed value.
            tags: Tag → value; the tags are those that METRICS names.
        """
        self._queue.put((name, value, tags))

    def _send_forever(self) -> None:
        while True:
            time.sleep(_SECONDS)
            for _ in range(self._queue.qsize()):
                self._send(*self._queue.get())

    def _send(self, name: str, value: float, tags: dict[str, str]) -> None:
        if name in self._counters:
            self._counters[name].inc(value, tags)
        else:
            self._histograms[name].observe(value, tags)
