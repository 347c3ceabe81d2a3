"""The service's figures as Ray's metrics, which Prometheus scrapes; Ray puts `ray_` before each name.

Knows ray.util.metrics and the figures of `telemetry`.
"""

from __future__ import annotations

from ray.util.metrics import Counter, Histogram

from whale_ray.serving.telemetry import FIGURES


class RayMetrics:
    """Hands figures to Ray."""

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

    def add(self, name: str, value: float, tags: dict[str, str]) -> None:
        """Counts, or observes, `value`."""
        if name in self._counters:
            self._counters[name].inc(value, tags)
        else:
            self._histograms[name].observe(value, tags)
