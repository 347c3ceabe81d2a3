"""What the service tells of itself in figures: calls, refusals, batches, seconds by stage, how many animals seem new.

Knows names and numbers; where they go is decided once a process, as with logging. Nobody listens by default.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Metric:
    """A figure. tags: what it is told apart by; edges: of a histogram's parts; a counter has none."""

    description: str
    tags: tuple[str, ...]
    edges: tuple[float, ...] = ()


_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
METRICS = {
    "whale_ray_requests": Metric("Calls that were answered", ("method", "route", "status")),
    "whale_ray_refusals": Metric("Calls that were refused", ("status",)),
    "whale_ray_answers": Metric("Photographs by what was decided: new or known", ("decision",)),
    "whale_ray_batch_size": Metric("Photographs that went together", ("stage",), (1, 2, 4, 8, 16, 32, 64)),
    "whale_ray_stage_seconds": Metric("Seconds of decode, embed, search, and a call", ("stage",), _SECONDS),
}


class MetricsSink(Protocol):
    """Where figures go; any thread may tell one."""

    def add(self, name: str, value: float, tags: dict[str, str]) -> None:
        """Counts, or observes, `value` under one of METRICS."""


class _NullSink:
    def add(self, name: str, value: float, tags: dict[str, str]) -> None:
        """Nothing."""


_sink: MetricsSink = _NullSink()


def set_sink(sink: MetricsSink) -> None:
    """From now on the figures of this process go to `sink`."""
    global _sink
    _sink = sink


def count(name: str, **tags: str) -> None:
    """One more of this kind."""
    _sink.add(name, 1.0, tags)


def observe(name: str, value: float, **tags: str) -> None:
    """One value of a histogram."""
    _sink.add(name, value, tags)


@contextmanager
def time_stage(name: str) -> Iterator[None]:
    """Observes the seconds that the block takes, the time that it waits included."""
    began = time.perf_counter()
    yield
    observe("whale_ray_stage_seconds", time.perf_counter() - began, stage=name)
