"""Early stopping by asynchronous successive halving (ASHA) over all trials of the run folder.

Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from whale_ray.sweep.config.sweep_spec import Sweep
from whale_ray.sweep.planning.trial_points import epochs_of
from whale_ray.sweep.run_folder.records import Record, read_curve

# Column of epochs.csv that measures `search.resource`.
RESOURCES = {"epochs": "epoch", "seconds": "training_seconds"}


class EarlyStopping:
    """Successive halving over the trials of a sweep, including earlier sessions; baselines and repeats never stop.

    Trials are compared with those of the same encoder and, unless their learning rate is constant, of the same number
    of epochs.
    """

    def __init__(self, sweep: Sweep, records: Iterable[Record]) -> None:
        fixed = sweep.fixed
        self._objective: str = fixed["search.objective"]
        self._resource = RESOURCES[fixed["search.resource"]]
        self._halving = Halving(grace=fixed["search.grace"], reduction_factor=fixed["search.reduction_factor"])
        for record in records:
            for figures in read_curve(record.folder, self._objective):
                self.may_continue(record, figures)

    def may_continue(self, record: Record, figures: Mapping[str, Any]) -> bool:
        """Return whether a trial may continue after an epoch; True without a score and after the last epoch.

        Args:
            record: The trial.
            figures: Figures of the epoch, as in epochs.csv.
        """
        score, last = figures.get(self._objective), epochs_of(record.settings)
        if record.kind != "trial" or score is None or figures["epoch"] >= last:
            return True
        train = record.settings["train"]
        # A schedule that decays to the last epoch has decayed further after the same epoch of a shorter training.
        length = "" if train.get("schedule") == "constant" else f" {last}"
        family = record.settings["model"]["encoder"] + length
        return self._halving.may_continue(family, record.trial, resource=figures[self._resource], score=score)


class Halving:
    """The rungs of each family of trials: at each, the best 1 of `reduction_factor` so far may continue.

    Trials are compared within their family only: small encoders learn faster than large ones. `grace` is the resource
    (epochs or seconds) of the first rung; each further rung needs `reduction_factor` times as much.

    >>> halving = Halving(grace=1, reduction_factor=2)
    >>> [halving.may_continue("tiny", trial, resource=1, score=score) for trial, score in zip("abc", (5, 4, 6))]
    [True, False, True]
    >>> halving.may_continue("resnet18", "d", resource=1, score=0.1)
    True
    """

    def __init__(self, *, grace: float, reduction_factor: int) -> None:
        self._grace, self._factor = grace, reduction_factor
        self._rungs: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
        self._reached: dict[str, int] = {}

    def may_continue(self, family: str, trial: str, *, resource: float, score: float) -> bool:
        """Return whether a trial may continue after a score.

        Only the highest newly reached rung records the score: a late score, after a pause in evaluation or a resume,
        is never compared with early ones.

        Args:
            family: Trials with the same family are compared.
            trial: ID of the trial.
            resource: Epochs or seconds that the trial has used.
            score: Value of the objective; larger is better.
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
        """Return the highest rung at or below the resource; -1 below the first."""
        rung = -1
        while resource >= self._grace * self._factor ** (rung + 1):
            rung += 1
        return rung
