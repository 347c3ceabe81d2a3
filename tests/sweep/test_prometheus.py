"""Prometheus metrics of a sweep: which values are set, and set again before Ray drops them."""

from __future__ import annotations

from typing import Any

import pytest
from ray._private.telemetry.open_telemetry_metric_recorder import OpenTelemetryMetricRecorder

from whale_ray.sweep.execution.runners import prometheus
from whale_ray.sweep.execution.runners.prometheus import REPEAT_SECONDS, Metrics

Values = dict[str, float]


@pytest.fixture
def values(monkeypatch: pytest.MonkeyPatch) -> Values:
    """The values that were set since the last clear: name and tags → value."""
    found: Values = {}

    class Recorded:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
            self.name = name.removeprefix("whale_ray_")

        def set(self, value: float, tags: dict[str, str]) -> None:
            words = (tags.get("trial"), tags.get("status") or tags.get("metric"))
            found[" ".join((self.name, *(word for word in words if word)))] = value

    monkeypatch.setattr(prometheus, "Gauge", Recorded)
    return found


def running(now: list[float], **options: Any) -> Metrics:
    """Metrics of a sweep of three trials, of which the first has ended and the second is at its second epoch."""
    metrics = Metrics(
        sweep="little", objective="map@5", total=3, before=[("finished", 0.5)], clock=lambda: now[0], **options
    )
    metrics.started("b", "arcface", epochs=4)
    metrics.epoch("b", {"epoch": 1, "loss": 3.0})
    metrics.epoch("b", {"epoch": 2, "loss": 2.0, "map@5": 0.25})
    return metrics


COUNTS = {"trials finished": 1, "trials running": 1, "trials waiting": 1, "trials pruned": 0, "trials failed": 0}


def test_the_last_values_of_the_sweep_and_its_running_trials_are_set_again(values: Values) -> None:
    metrics = running(now := [100.0])
    values.clear()
    now[0] += REPEAT_SECONDS - 0.1
    metrics.repeat_if_due()
    assert values == {}
    for _ in range(2):
        now[0] += REPEAT_SECONDS
        metrics.repeat_if_due()
        trial = {"trial_progress b": 0.5, "trial_loss b": 2.0, "trial_score b map@5": 0.25}
        assert values == {**COUNTS, "best_score map@5": 0.5, **trial}
        values.clear()
        metrics.repeat_if_due()
        assert values == {}


def test_the_values_of_a_trial_that_has_ended_are_not_set_again(values: Values) -> None:
    metrics = running(now := [0.0])
    metrics.ended("b", status="finished", score=0.75)
    values.clear()
    now[0] += REPEAT_SECONDS
    metrics.repeat_if_due()
    assert values == {**COUNTS, "trials finished": 2, "trials running": 0, "best_score map@5": 0.75}


def test_ray_keeps_a_value_for_longer_than_it_takes_to_set_it_again() -> None:
    """Ray reports what was set since the last report, every ten seconds, and keeps that for two reports."""
    reports = OpenTelemetryMetricRecorder._resolve_gauge_ttl_seconds(None) / 2
    assert reports == 10
    assert reports >= 2 * REPEAT_SECONDS
