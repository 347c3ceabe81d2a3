"""Prometheus metrics of a sweep, exported by Ray. The dashboard in deploy/grafana uses their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from ray.util.metrics import Gauge

from whale_ray.sweep.execution.trial_store import TrialStore
from whale_ray.sweep.planning.dry_run import planned_runs

STATUSES = ("waiting", "running", "finished", "pruned", "failed")
_FIGURES = {
    "loss": "Mean loss of the last epoch",
    "images_per_second": "Training images per second",
    "learning_rate": "Learning rate at the end of the epoch",
}


class Metrics:
    """Gauges of one sweep. Ray prefixes each name with `ray_` and exports the last values until the sweep ends."""

    def __init__(self, *, sweep: str, objective: str, total: int, before: Iterable[tuple[str, float | None]]) -> None:
        """Create the gauges.

        Args:
            sweep: Name of the sweep.
            objective: Score that the search maximizes.
            total: Number of all trials.
            before: Status and score of the trials that have ended already.
        """
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
            self._progress.set(figures.get("epoch", 0) / epochs, tags)
        for name, gauge in self._figures.items():
            if figures.get(name) is not None:
                gauge.set(float(figures[name]), tags)
        for name in {"recall@1", "map@5", self._objective}:
            if figures.get(name) is not None:
                self._score.set(float(figures[name]), {**tags, "metric": name})

    def ended(self, trial: str, *, status: str, score: float | None) -> None:
        """Count the outcome of a trial.

        Args:
            trial: ID of the trial.
            status: finished, pruned or failed.
            score: Value of the objective; None if the trial has none.
        """
        self._settings.pop(trial, None)
        self._counts[status] += 1
        self._count()
        if score is not None and score > self._best_score:
            self._best_score = score
            self._best.set(score, {"sweep": self._sweep, "metric": self._objective})

    def _tags(self, trial: str) -> dict[str, str]:
        return {"sweep": self._sweep, "trial": trial, "setting": self._settings.get(trial, "")}

    def _count(self) -> None:
        begun = sum(self._counts.values()) + len(self._settings)
        now = self._counts | Counter(running=len(self._settings), waiting=max(0, self._total - begun))
        for status in STATUSES:
            self._trials.set(now[status], {"sweep": self._sweep, "status": status})


def metrics_of(store: TrialStore) -> Metrics:
    """Return the gauges of a sweep, with the trials that have ended already."""
    ended = [record for record in store.index.records() if record.status != "running"]
    return Metrics(
        sweep=store.sweep.name,
        objective=store.objective,
        total=planned_runs(store.sweep),
        before=[(record.status, record.result.get(store.objective)) for record in ended],
    )
