"""Search space: axes as distributions of Optuna, suggested points, and the points of a grid in a chosen order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from whale_ray.sweep.config.axes import Axis
from whale_ray.sweep.config.sweep_spec import Sweep
from whale_ray.sweep.planning.trial_points import Caches, Point, caches_of, exists

ChooseCaches = Callable[[Mapping[Caches, int]], Caches]
_CACHED_BY = ("image_size", "resize", "affine", "encoder", "weights", "freeze")  # ends of the names of axes


def axis_distribution(axis: Axis) -> BaseDistribution:
    """Return the Optuna distribution of an axis: categorical for a list, integer or float for a range."""
    if axis.values is not None:
        return CategoricalDistribution(axis.values)
    low, high = axis.low or 0, axis.high or 0
    if axis.kind == "int":
        step = 1 if axis.step is None else int(axis.step)
        return IntDistribution(int(low), int(high), log=axis.log, step=step)
    return FloatDistribution(low, high, log=axis.log, step=axis.step)


def suggest_point(trial: optuna.Trial, axes: Sequence[Axis]) -> Point:
    """Return the point that Optuna suggests: a value for each axis that exists there.

    Args:
        trial: The running Optuna trial.
        axes: Axes of the sweep; an axis of an alternative comes after the axis that chooses among the alternatives.
    """
    point: Point = {}
    for axis in axes:
        if exists(axis, point):
            point[axis.name] = _suggest_value(trial, axis.name, axis_distribution(axis))
    return point


def _suggest_value(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    match distribution:
        case CategoricalDistribution(choices=choices):
            return trial.suggest_categorical(name, choices)
        case IntDistribution(low=low, high=high, log=log, step=step):
            return trial.suggest_int(name, low, high, log=log, step=step)
        case FloatDistribution(low=low, high=high, log=log, step=step):
            return trial.suggest_float(name, low, high, log=log, step=step)
    raise AssertionError(f"no axis has the distribution {distribution}")


def fits(point: Point, axes: Sequence[Axis]) -> bool:
    """Return whether a point lies in the space: it has a valid value for each axis that exists there, and no other.

    Args:
        point: Value by axis name.
        axes: Axes of the sweep.
    """
    own = [axis for axis in axes if exists(axis, point)]
    return {axis.name for axis in own} == point.keys() and all(_contains(axis, point[axis.name]) for axis in own)


def _contains(axis: Axis, value: Any) -> bool:
    if axis.values is not None:
        return value in axis.values
    return isinstance(value, int | float) and (axis.low or 0) <= value <= (axis.high or 0)


def next_in_order(waiting: Mapping[Caches, int]) -> Caches:
    """Return the caches that the trial of the next point needs, whatever node it will run on."""
    return next(iter(waiting))


class PointList:
    """Points of a grid or a screen that have no trial yet; those whose trials need the same caches stay in their order.

    Args:
        points: The points.
        sweep: Their sweep.
        known: Returns whether a point has a trial already.
    """

    def __init__(self, points: Iterable[Point], sweep: Sweep, known: Callable[[Point], bool]) -> None:
        self._points, self._sweep, self._known = iter(points), sweep, known
        self._names = [axis.name for axis in sweep.axes if axis.name.endswith(_CACHED_BY)]

    def take(self, choose: ChooseCaches) -> Point | None:
        """Return the next point without a trial and forget it; None if there is no more.

        Args:
            choose: Returns what the trial shall need, given the number of points for each choice, in the order of
                their first points.
        """
        if not self._names:
            return next((point for point in self._points if not self._known(point)), None)
        while self._lists:
            order = sorted(self._lists, key=lambda caches: self._lists[caches][0][0])
            chosen = choose({caches: len(self._lists[caches]) for caches in order})
            _, point = self._lists[chosen].popleft()
            if not self._lists[chosen]:
                del self._lists[chosen]
            if not self._known(point):
                return point
        return None

    @cached_property
    def _lists(self) -> dict[Caches, deque[tuple[int, Point]]]:
        found: dict[Caches, deque[tuple[int, Point]]] = {}
        by_values: dict[tuple[Any, ...], Caches] = {}
        for place, point in enumerate(self._points):
            values = tuple(point.get(name) for name in self._names)
            if values not in by_values:
                by_values[values] = caches_of(self._sweep.settings(point))
            found.setdefault(by_values[values], deque()).append((place, point))
        return found
