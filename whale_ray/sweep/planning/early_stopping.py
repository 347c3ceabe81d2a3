"""Which trials of a sweep are stopped early: its rungs, as the curves in the run folder have left them.

Knows records and their curves; the rule itself is `halving`'s.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from whale_ray.sweep.config.sweep_spec import Sweep
from whale_ray.sweep.planning.trial_settings import epochs_of
from whale_ray.sweep.run_folder.records import Record, read_curve

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


class Halving:
    """The rungs of each family of trials: at each, the best 1 of `reduction_factor` so far may go on.

    Trials are compared within their family alone: small encoders learn fast, which says nothing of a large one.
    grace: the resource (epochs or seconds) at the first rung; each further rung is `reduction_factor` times as far.

    >>> halving = Halving(grace=1, reduction_factor=2)
    >>> [halving.goes_on("tiny", trial, resource=1, score=score) for trial, score in zip("abc", (5, 4, 6))]
    [True, False, True]
    >>> halving.goes_on("resnet18", "d", resource=1, score=0.1)
    True
    """

    def __init__(self, *, grace: float, reduction_factor: int) -> None:
        self._grace, self._factor = grace, reduction_factor
        self._rungs: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
        self._reached: dict[str, int] = {}

    def goes_on(self, family: str, trial: str, *, resource: float, score: float) -> bool:
        """Whether a trial may go on after this score. Only the highest rung that is newly reached takes the score.

        A score that comes late, after a pause in evaluation or a resume, is so never held against early ones.
        """
        rung = self._rung(resource)
        if rung <= self._reached.get(trial, -1):
            return True
        self._reached[trial] = rung
        scores = self._rungs[family, rung]
        scores[trial] = score
        places = math.ceil(len(scores) / self._factor)
        return score >= sorted(scores.values(), reverse=True)[places - 1]

    def _rung(self, resource: float) -> int:
        """The highest rung at or below the resource; -1 below the first."""
        rung = -1
        while resource >= self._grace * self._factor ** (rung + 1):
            rung += 1
        return rung
