"""Progress display for tests: records events and calls a function at each epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from whale_ray.sweep.execution.console import Progress


class RecordingProgress(Progress):
    """Records trials and epochs, and calls `at_epoch` after each epoch."""

    def __init__(self, at_epoch: Callable[[str, Mapping[str, Any]], None] = lambda trial, figures: None) -> None:
        super().__init__(sweep="little", objective="recall@1")
        self.begun: list[str] = []
        self.epochs: list[tuple[str, int]] = []
        self._at_epoch = at_epoch

    def started(self, trial: str, label: str) -> None:
        self.begun.append(trial)
        super().started(trial, label)

    def epoch(self, trial: str, figures: Mapping[str, Any]) -> None:
        super().epoch(trial, figures)
        if "loss" in figures:
            self.epochs.append((trial, figures["epoch"]))
            self._at_epoch(trial, figures)
