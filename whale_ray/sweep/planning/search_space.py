"""Axes as an Optuna search space: distributions, suggested points and the check whether a point lies in the space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from whale_ray.sweep.config.axes import Axis
from whale_ray.sweep.planning.trial_points import Point, exists


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
