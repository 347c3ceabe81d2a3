"""Service metrics: requests, refusals, batch sizes, seconds per stage and decisions.

Values go to one sink per process; without a sink they are dropped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Metric:
    """A counter or, with `edges`, a histogram.

    Attributes:
        description: Help text of the metric.
        tags: Names of its labels.
        edges: Upper bounds of the buckets of a histogram; empty for a counter.
    """

    description: str
    tags: tuple[str, ...]
    edges: tuple[float, ...] = ()


_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
METRICS = {
    "whale_ray_requests": Metric("Answered calls", ("method", "route", "status")),
    "whale_ray_refusals": Metric("Refused calls", ("status",)),
    "whale_ray_answers": Metric("Images by decision: new or known", ("decision",)),
    "whale_ray_batch_size": Metric("Images per batch", ("stage",), (1, 2, 4, 8, 16, 32, 64)),
    "whale_ray_stage_seconds": Metric("Seconds per stage: detect, decode, embed, search, call", ("stage",), _SECONDS),
}


class MetricsSink(Protocol):
    """Destination of the values; `add` is called from any thread."""

    def add(self, name: str, value: float, tags: dict[str, str]) -> None:
        """Count or observe a value.

        Args:
            name: A key of `METRICS`.
            value: Increment of a counter or value of a histogram.
            tags: Label → value, for each label of the metric.
        """


class _NullSink:
    def add(self, name: str, value: float, tags: dict[str, str]) -> None:
        """Drop the value."""


_sink: MetricsSink = _NullSink()


def set_sink(sink: MetricsSink) -> None:
    """Send the values of this process to `sink` from now on."""
    global _sink
    _sink = sink


def count(name: str, **tags: str) -> None:
    """Increment a counter by one.

    Args:
        name: A key of `METRICS`.
        tags: Value of each label.
    """
    _sink.add(name, 1.0, tags)


def observe(name: str, value: float, **tags: str) -> None:
    """Add a value to a histogram.

    Args:
        name: A key of `METRICS`.
        value: The value.
        tags: Value of each label.
    """
    _sink.add(name, value, tags)


@contextmanager
def time_stage(name: str) -> Iterator[None]:
    """Observe the seconds that the block takes, including waiting."""
    began = time.perf_counter()
    yield
    observe("whale_ray_stage_seconds", time.perf_counter() - began, stage=name)
