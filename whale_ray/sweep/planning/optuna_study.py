"""Search strategies as one Optuna study in the run folder: grid and screen enqueue their points, the others sample."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from whale_ray.sweep.config.sweep_spec import Sweep
from whale_ray.sweep.planning.search_space import ChooseCaches, PointList, fits, next_in_order, suggest_point
from whale_ray.sweep.planning.study_storage import move_damaged, open_shared_storage, share_distributions
from whale_ray.sweep.planning.trial_points import Point, listed_points

optuna.logging.set_verbosity(optuna.logging.WARNING)


def _tree_parzen(seed: int) -> optuna.samplers.BaseSampler:
    """Return TPE over joint, conditional spaces; running trials count as poor, which spreads parallel trials out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


@dataclass(frozen=True)
class Proposal:
    """A point of the search space that has no trial yet.

    Attributes:
        number: Number of the trial in the Optuna study.
        point: Value of each axis.
    """

    number: int
    point: Point


class Study:
    """The Optuna study of one run folder, there or in a shared database: proposes points and records their outcome.

    Attributes:
        damaged: Path to which a damaged study.db was moved; None if the file was whole.
    """

    def __init__(
        self, sweep: Sweep, path: Path, *, begun: Collection[str], known: Callable[[Point], bool], sweep_id: str = ""
    ) -> None:
        """Open the study, or create it.

        Args:
            sweep: The sweep.
            path: Path of study.db, unless the sweep names another database.
            begun: IDs of the trials in the run folder.
            known: Returns whether a point of a grid or screen has a trial already.
            sweep_id: ID of the run folder, a part of the study's name in a shared database.
        """
        strategy = sweep.fixed["search.strategy"]
        seed = int(sweep.fixed["search.seed"])
        self._axes = sweep.axes
        cells = listed_points(sweep)
        self._cells = None if cells is None else PointList(cells, sweep, known)
        # A resumed TPE search must not draw its first points again. `random` draws and skips them, so that an
        # interrupted search ends with the same trials as one that ran through.
        sampler = _tree_parzen(seed + len(begun)) if strategy == "optuna" else optuna.samplers.RandomSampler(seed=seed)
        shared = sweep.fixed["search.storage"]
        self.damaged = None if shared else move_damaged(path)
        share_distributions()
        self._study = _open_study(
            sweep,
            open_shared_storage(shared) if shared else f"sqlite:///{path}",
            sampler,
            name=f"{sweep.name} {sweep_id}" if shared else sweep.name,
        )
        self._numbers: dict[str, int] = {}
        # Each call of `get_trials` would take longer with every trial.
        self._keys: dict[int, int] = {}
        self._ended: set[int] = set()
        for one in self._study.get_trials(deepcopy=False):
            self._keys[one.number] = one._trial_id
            if one.state.is_finished():
                self._ended.add(one.number)
            trial = one.user_attrs.get("trial")
            if trial in begun:
                self._numbers[trial] = one.number
            elif not one.state.is_finished():
                self._forget(one)

    def _forget(self, left_by_a_kill: optuna.trial.FrozenTrial) -> None:
        if left_by_a_kill.state == TrialState.WAITING:
            self._study.ask()
        self._study.tell(left_by_a_kill.number, state=TrialState.FAIL)

    def ask(self, choose: ChooseCaches = next_in_order) -> Proposal | None:
        """Return the next point; None if a grid or a screen has no more.

        Args:
            choose: Chooses among the points of a grid or a screen; searches draw theirs in one order.
        """
        if self._cells is not None:
            cell = self._cells.take(choose)
            return None if cell is None else self.ask_for(cell)
        return self._ask()

    def ask_for(self, point: Point) -> Proposal:
        """Return a proposal for a given point."""
        self._study.enqueue_trial(point)
        return self._ask()

    def _ask(self) -> Proposal:
        trial = self._study.ask()
        self._keys[trial.number] = trial._trial_id
        return Proposal(trial.number, suggest_point(trial, self._axes))

    def begin(self, number: int, trial: str) -> None:
        """Record that a proposal has become a trial.

        Args:
            number: Number of the proposal.
            trial: ID of the trial.
        """
        self._numbers[trial] = number
        self._handle(number).set_user_attr("trial", trial)

    def adopt(self, trial: str, point: Point, *, ended: bool) -> None:
        """Give a trial of the run folder its place in the study if its point lies in the search space.

        Args:
            trial: ID of the trial.
            point: Value of each axis.
            ended: The trial has a result; an unfinished one gets a place that is still open.
        """
        number = self._numbers.get(trial)
        if number is not None and (ended or number not in self._ended):
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
        """Record the outcome of a trial; a second call for the same trial changes nothing.

        Args:
            trial: ID of the trial; one without a place in the study is ignored.
            values: Value of each objective; None if the trial failed.
            pruned: The trial was stopped early.
            curve: Score after each evaluated epoch.
            notes: User attributes of the trial.
        """
        number = self._numbers.get(trial)
        if number is None or number in self._ended:
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
        self._ended.add(number)

    def tell_duplicate(self, number: int, trial: str, values: float | Sequence[float] | None) -> None:
        """Record that a proposal repeats the point of another trial.

        Args:
            number: Number of the proposal.
            trial: ID of the trial that has the point.
            values: Its value of each objective; None if it has none yet.
        """
        self._handle(number).set_user_attr("repeats", trial)
        self._study.tell(number, values, state=TrialState.FAIL if values is None else None)

    def _handle(self, number: int) -> optuna.Trial:
        return optuna.Trial(self._study, self._keys[number])


def _open_study(
    sweep: Sweep, storage: str | optuna.storages.BaseStorage, sampler: optuna.samplers.BaseSampler, *, name: str
) -> optuna.Study:
    """Return the study of this search space and objective; a changed space or objective gets a new study.

    Optuna does not let either change within a study.
    """
    axes = {axis.name: list(axis.values) if axis.values else {"log": axis.log} for axis in sweep.axes}
    retrieval = {name: list(values) for name, values in sweep.retrieval.items()}
    space = {"objective": sweep.objective, "axes": axes, "retrieval": retrieval}
    if sweep.also:
        space["also"] = sweep.also
    directions = ["maximize", "minimize"] if sweep.also else ["maximize"]
    for numbered in itertools.chain([name], (f"{name} {count}" for count in itertools.count(2))):
        study = optuna.create_study(
            study_name=numbered, storage=storage, directions=directions, load_if_exists=True, sampler=sampler
        )
        if "space" not in study.user_attrs:
            study.set_user_attr("space", space)
        if study.user_attrs["space"] == space:
            return study
    raise AssertionError("there is always another name")
