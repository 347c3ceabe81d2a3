"""Prometheus metrics of a sweep, exported by Ray. The dashboard in deploy/grafana uses their names."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ray.util.metrics import Gauge

from whale_ray.sweep.execution.trial_store import TrialStore
from whale_ray.sweep.planning.dry_run import planned_runs

REPEAT_SECONDS = 5.0  # Ray reports every 10 s
STATUSES = ("waiting", "running", "finished", "pruned", "failed")
_FIGURES = {
    "loss": "Mean loss of the last epoch",
    "images_per_second": "Training images per second",
    "learning_rate": "Learning rate at the end of the epoch",
}


class Metrics:
    """Gauges of one sweep. Ray prefixes each name with `ray_`.

    Ray reports a value once after it was set, and drops it 20 s later. The values of the sweep and of its running
    trials are therefore set again every few seconds.
    """

    def __init__(
        self,
        *,
        sweep: str,
        objective: str,
        total: int,
        before: Iterable[tuple[str, float | None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create the gauges.

        Args:
            sweep: Name of the sweep.
            objective: Score that the search maximizes.
            total: Number of all trials.
            before: Status and score of the trials that have ended already.
            clock: Returns the time in seconds.
        """
        self._clock, self._repeated = clock, clock()
        # Trial, empty for the sweep's own, → gauge and tags → value.
        self._values: dict[str, dict[tuple[Gauge, frozenset[tuple[str, str]]], float]] = {"": {}}
        self._sweep, self._objective, self._total = sweep, objective, total
        self._counts: Counter[str] = Counter()
        self._epochs: dict[str, int] = {}
        self._settings: dict[str, str] = {}
        self._trials = Gauge("whale_ray_trials", "Trials of a sweep", tag_keys=("sweep", "status"))
        self._best = Gauge("whale_ray_best_score", "Best score so far", tag_keys=("sweep", "metric"))
        self._best_score = float("-inf")
        tags = ("sweep", "trial", "setting")
        self._progress = Gauge("whale_ray_trial_progress", "Share of a trial's epochs that are done", tag_keys=tags)
        self._score = Gauge("whale_ray_trial_score", "Score on validation", tag_keys=(*tags, "metric"))
        self._figures = {name: Gauge(f"whale_ray_trial_{name}", text, tag_keys=tags) for name, text in _FIGURES.items()}
        self._count()
        for status, score in before:
            self.ended("", status=status, score=score)

    def started(self, trial: str, label: str, *, epochs: int) -> None:
        """Count a trial as running.

        Args:
            trial: ID of the trial.
            label: Its settings as text.
            epochs: Number of epochs that it has in all.
        """
        self._settings[trial], self._epochs[trial] = label, epochs
        self._count()

    def epoch(self, trial: str, figures: Mapping[str, Any]) -> None:
        """Set the gauges of a trial after an epoch.

        Args:
            trial: ID of the trial.
            figures: Epoch, loss, scores and speed, as far as the epoch has them.
        """
        tags = self._tags(trial)
        if epochs := self._epochs.get(trial):
            self._set(trial, self._progress, figures.get("epoch", 0) / epochs, tags)
        for name, gauge in self._figures.items():
            if figures.get(name) is not None:
                self._set(trial, gauge, float(figures[name]), tags)
        for name in {"recall@1", "map@5", self._objective}:
            if figures.get(name) is not None:
                self._set(trial, self._score, float(figures[name]), {**tags, "metric": name})

    def ended(self, trial: str, *, status: str, score: float | None) -> None:
        """Count the outcome of a trial.

        Args:
            trial: ID of the trial.
            status: finished, pruned or failed.
            score: Value of the objective; None if the trial has none.
        """
        self._settings.pop(trial, None)
        if trial:
            self._values.pop(trial, None)
        self._counts[status] += 1
        self._count()
        if score is not None and score > self._best_score:
            self._best_score = score
            self._set("", self._best, score, {"sweep": self._sweep, "metric": self._objective})

    def repeat_if_due(self) -> None:
        """Set the values again that would vanish otherwise, if the last time is long enough ago."""
        if self._clock() - self._repeated < REPEAT_SECONDS:
            return
        self._repeated = self._clock()
        for values in self._values.values():
            for (gauge, tags), value in values.items():
                gauge.set(value, dict(tags))

    def _set(self, trial: str, gauge: Gauge, value: float, tags: Mapping[str, str]) -> None:
        gauge.set(value, dict(tags))
        self._values.setdefault(trial, {})[gauge, frozenset(tags.items())] = value

    def _tags(self, trial: str) -> dict[str, str]:
        return {"sweep": self._sweep, "trial": trial, "setting": self._settings.get(trial, "")}

    def _count(self) -> None:
        begun = sum(self._counts.values()) + len(self._settings)
        now = self._counts | Counter(running=len(self._settings), waiting=max(0, self._total - begun))
        for status in STATUSES:
            self._set("", self._trials, now[status], {"sweep": self._sweep, "status": status})


def metrics_of(store: TrialStore) -> Metrics:
    """Return the gauges of a sweep, with the trials that have ended already."""
    ended = [record for record in store.index.records() if record.status != "running"]
    return Metrics(
        sweep=store.sweep.name,
        objective=store.objective,
        total=planned_runs(store.sweep),
        before=[(record.status, record.result.get(store.objective)) for record in ended],
    )
