"""Which trial comes next: grids, random draws and Optuna searches, one queue for all three.

Every strategy asks one Optuna study, kept in the run folder: a grid enqueues its cells, `random` and `optuna`
sample. Knows points of the space; how a point becomes a trial's settings is `spec`'s, what a trial does is `trial`'s.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from whale_ray.sweep.axes import Axis
from whale_ray.sweep.plan import Point, exists, grid_points
from whale_ray.sweep.spec import Sweep

optuna.logging.set_verbosity(optuna.logging.WARNING)


def _tree_parzen(seed: int) -> optuna.samplers.BaseSampler:
    """TPE over joint, conditional spaces; trials that still run count as poor, so that parallel ones spread out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


def _suggest(trial: optuna.Trial, axes: Sequence[Axis]) -> Point:
    point: Point = {}
    for axis in axes:
        if exists(axis, point):
            point[axis.name] = _suggest_value(trial, axis)
    return point


def _suggest_value(trial: optuna.Trial, axis: Axis) -> Any:
    if axis.values is not None:
        return trial.suggest_categorical(axis.name, axis.values)
    low, high = axis.low or 0, axis.high or 0
    if axis.kind == "int":
        step = 1 if axis.step is None else int(axis.step)
        return trial.suggest_int(axis.name, int(low), int(high), log=axis.log, step=step)
    return trial.suggest_float(axis.name, low, high, log=axis.log, step=axis.step)


@dataclass(frozen=True)
class Proposal:
    """A point of the space and its number in the study."""

    number: int
    point: Point


class Study:
    """The Optuna study of one run folder: asked for points, told what became of them."""

    def __init__(self, sweep: Sweep, path: Path, *, known: Callable[[Point], bool]) -> None:
        """known: whether a cell of a grid has its trial already and need not be asked for."""
        strategy = sweep.fixed["search.strategy"]
        seed = int(sweep.fixed["search.seed"])
        self._axes = sweep.axes
        cells = (point for point in grid_points(sweep.axes) if not known(point))
        self._cells = cells if strategy == "grid" else None
        self._study = optuna.create_study(
            study_name=sweep.name,
            storage=f"sqlite:///{path}",
            direction="maximize",
            load_if_exists=True,
            sampler=_tree_parzen(seed) if strategy == "optuna" else optuna.samplers.RandomSampler(seed=seed),
        )

    def ask(self) -> Proposal | None:
        """The next point; None where a grid has no more."""
        if self._cells is not None:
            cell = next(self._cells, None)
            if cell is None:
                return None
            self._study.enqueue_trial(cell)
        trial = self._study.ask()
        return Proposal(trial.number, _suggest(trial, self._axes))

    def tell(self, number: int, value: float | None, *, pruned: bool = False, notes: Mapping[str, Any] = {}) -> None:
        """Records the outcome of a point once: its score, or None where it failed; telling again changes nothing."""
        trial = self._study.get_trials(deepcopy=False)[number]
        if trial.state.is_finished():
            return
        handle = optuna.Trial(self._study, trial._trial_id)
        for key, note in notes.items():
            handle.set_user_attr(key, note)
        if value is None:
            self._study.tell(number, state=optuna.trial.TrialState.FAIL)
        elif pruned:
            handle.report(value, step=int(notes.get("epoch", 1)))
            self._study.tell(number, state=optuna.trial.TrialState.PRUNED)
        else:
            self._study.tell(number, value)
