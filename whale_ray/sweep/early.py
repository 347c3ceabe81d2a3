"""Which trials of a sweep are stopped early: its rungs, as the curves in the run folder have left them.

Knows records and their curves; the rule itself is `halving`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from whale_ray.sweep.halving import Halving
from whale_ray.sweep.leaderboard import Record, read_curve
from whale_ray.sweep.plan import epochs_of
from whale_ray.sweep.spec import Sweep

# The column of epochs.csv that says how much a trial has had of what the search gives trials alike.
RESOURCES = {"epochs": "epoch", "seconds": "training_seconds"}


class EarlyStopping:
    """Successive halving over the trials of a sweep, of earlier sittings too; baselines and repeats always go on.

    Trials are compared with those of the same encoder and, unless their rate is constant, as many epochs.
    """

    def __init__(self, sweep: Sweep, records: Iterable[Record]) -> None:
        fixed = sweep.fixed
        self._objective: str = fixed["search.objective"]
        self._resource = RESOURCES[fixed["search.resource"]]
        self._halving = Halving(grace=fixed["search.grace"], reduction_factor=fixed["search.reduction_factor"])
        for record in records:
            for figures in read_curve(record.folder, self._objective):
                self.goes_on(record, figures)

    def goes_on(self, record: Record, figures: Mapping[str, Any]) -> bool:
        """Whether a trial goes on after the epoch of these figures: without a score, and after its last, always."""
        score, last = figures.get(self._objective), epochs_of(record.settings)
        if record.kind != "trial" or score is None or figures["epoch"] >= last:
            return True
        train = record.settings["train"]
        # A rate that falls to the end has fallen further after as many epochs where there are fewer of them.
        length = "" if train.get("schedule") == "constant" else f" {last}"
        family = record.settings["model"]["encoder"] + length
        return self._halving.goes_on(family, record.trial, resource=figures[self._resource], score=score)
