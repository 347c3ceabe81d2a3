"""Which trial comes next: grids, screens, random draws and Optuna searches, one queue for all of them.

Every strategy asks one Optuna study, kept in the run folder: a grid and a screen enqueue their cells, `random` and
`optuna` sample. Knows points of the space; how a point becomes a trial's settings is `spec`'s, what a trial does is
`trial`'s.
"""

from __future__ import annotations

import itertools
import sqlite3
import time
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from whale_ray.sweep.config.sweep_spec import Sweep
from whale_ray.sweep.planning.search_space import fits, suggest_point
from whale_ray.sweep.planning.trial_settings import Point, listed_points

optuna.logging.set_verbosity(optuna.logging.WARNING)


def _tree_parzen(seed: int) -> optuna.samplers.BaseSampler:
    """TPE over joint, conditional spaces; trials that still run count as poor, so that parallel ones spread out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


@dataclass(frozen=True)
class Proposal:
    """A point of the space and its number in the study."""

    number: int
    point: Point


class Study:
    """The Optuna study of one run folder: asked for points, told what became of their trials."""

    def __init__(self, sweep: Sweep, path: Path, *, begun: Collection[str], known: Callable[[Point], bool]) -> None:
        """begun: the trials that there are. known: whether a cell has its trial and need not be asked for."""
        strategy = sweep.fixed["search.strategy"]
        seed = int(sweep.fixed["search.seed"])
        self._axes = sweep.axes
        cells = listed_points(sweep)
        self._cells = None if cells is None else (point for point in cells if not known(point))
        # A search that goes on must not draw its first points again; `random` does, and passes over them, so that it
        # ends as if it had never stopped.
        sampler = _tree_parzen(seed + len(begun)) if strategy == "optuna" else optuna.samplers.RandomSampler(seed=seed)
        self.damaged = _move_damaged(path)
        self._study = _open_study(sweep, f"sqlite:///{path}", sampler)
        self._numbers: dict[str, int] = {}
        for one in self._study.get_trials(deepcopy=False):
            trial = one.user_attrs.get("trial")
            if trial in begun:
                self._numbers[trial] = one.number
            elif not one.state.is_finished():
                self._forget(one)

    def _forget(self, left_by_a_kill: optuna.trial.FrozenTrial) -> None:
        if left_by_a_kill.state == TrialState.WAITING:
            self._study.ask()
        self._study.tell(left_by_a_kill.number, state=TrialState.FAIL)

    def ask(self) -> Proposal | None:
        """The next point; None where a grid or a screen has no more."""
        if self._cells is not None:
            cell = next(self._cells, None)
            return None if cell is None else self.ask_for(cell)
        return self._ask()

    def ask_for(self, point: Point) -> Proposal:
        """This very point of the space."""
        self._study.enqueue_trial(point)
        return self._ask()

    def _ask(self) -> Proposal:
        trial = self._study.ask()
        return Proposal(trial.number, suggest_point(trial, self._axes))

    def begin(self, number: int, trial: str) -> None:
        """A proposal becomes a trial."""
        self._numbers[trial] = number
        self._handle(number).set_user_attr("trial", trial)

    def adopt(self, trial: str, point: Point, *, ended: bool) -> None:
        """A trial of the run folder has its place in the study, an open one where it has not ended.

        It has none where its point is not of this space.
        """
        number = self._numbers.get(trial)
        if number is not None and (ended or not self._frozen(number).state.is_finished()):
            return
        if fits(point, self._axes):
            self.begin(self.ask_for(point).number, trial)

    def tell(
        self,
        trial: str,
        values: float | Sequence[float] | None,
        *,
        pruned: bool = False,
        curve: Mapping[int, float] = {},
        notes: Mapping[str, Any] = {},
    ) -> None:
        """Records the outcome of a trial once: the value of each objective, or None where it failed.

        Telling again changes nothing.

        curve: the score after each epoch that has one. notes: what else is known, as attributes of the trial.
        """
        number = self._numbers.get(trial)
        if number is None or self._frozen(number).state.is_finished():
            return
        values = [values] if isinstance(values, int | float) else values
        handle = self._handle(number)
        if len(self._study.directions) == 1:  # Optuna has no curves of two objectives
            for epoch, score in (curve or ({0: values[0]} if pruned and values else {})).items():
                handle.report(score, step=int(epoch))
        for key, note in notes.items():
            handle.set_user_attr(key, note)
        if values is None:
            self._study.tell(number, state=TrialState.FAIL)
        elif pruned:
            self._study.tell(number, state=TrialState.PRUNED)
        else:
            self._study.tell(number, list(values))

    def tell_repeat(self, number: int, trial: str, values: float | Sequence[float] | None) -> None:
        """A point was drawn again: told with the score of the trial that has it, None where that has none yet."""
        self._handle(number).set_user_attr("repeats", trial)
        self._study.tell(number, values, state=TrialState.FAIL if values is None else None)

    def _frozen(self, number: int) -> optuna.trial.FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]

    def _handle(self, number: int) -> optuna.Trial:
        return optuna.Trial(self._study, self._frozen(number)._trial_id)


def _move_damaged(path: Path) -> Path | None:
    """Where a study file was moved to that is none of SQLite's, or is cut; None where it is whole or not there.

    Nothing is lost with it: each trial's folder says all that the study had learned of it.
    """
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(path)) as connection:
            whole = connection.execute("PRAGMA quick_check").fetchone() == ("ok",)
    except sqlite3.DatabaseError:
        whole = False
    if whole:
        return None
    aside = path.with_suffix(f".damaged.{time.strftime('%Y%m%d-%H%M%S')}")
    path.replace(aside)
    return aside


def _open_study(sweep: Sweep, storage: str, sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    """The study of this space and this way to score: neither can change inside of one, so another begins beside it."""
    axes = {axis.name: list(axis.values) if axis.values else {"log": axis.log} for axis in sweep.axes}
    retrieval = {name: list(values) for name, values in sweep.retrieval.items()}
    space = {"objective": sweep.objective, "axes": axes, "retrieval": retrieval}
    if sweep.also:
        space["also"] = sweep.also
    directions = ["maximize", "minimize"] if sweep.also else ["maximize"]
    for name in itertools.chain([sweep.name], (f"{sweep.name} {count}" for count in itertools.count(2))):
        study = optuna.create_study(
            study_name=name, storage=storage, directions=directions, load_if_exists=True, sampler=sampler
        )
        if "space" not in study.user_attrs:
            study.set_user_attr("space", space)
        if study.user_attrs["space"] == space:
            return study
    raise AssertionError("there is always another name")
