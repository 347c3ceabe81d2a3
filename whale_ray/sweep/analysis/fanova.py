"""fANOVA: the share of the objective's variance that each axis of a random or Optuna search explains.

Hutter et al., "An efficient approach for assessing hyperparameter importance", ICML 2014, as Optuna implements it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna

from whale_ray.sweep.config.axes import Axis
from whale_ray.sweep.planning.search_space import axis_distribution, fits

FEWEST_TRIALS = 10
SHUFFLES = 19
MOST_TRIALS = 200
_RESAMPLED = 30
_TREES = 16


@dataclass(frozen=True)
class Share:
    """Share of the variance that an axis explains.

    Attributes:
        axis: The axis.
        value: The share, 0 to 1.
        low: Lower end of the 95 % interval over resampled trials.
        high: Upper end.
        among: Number of trials.
        beyond_noise: The share exceeds that of each of 19 shuffles of the axis over the trials (one in 20 by chance).
    """

    axis: str
    value: float
    low: float
    high: float
    among: int
    beyond_noise: bool


def explain(points: Sequence[dict[str, Any]], scores: np.ndarray, axes: Sequence[Axis]) -> list[Share]:
    """Return the share of each axis that varies, the largest first.

    Axes of an alternative are judged among the trials that have them. Axes with fewer than 10 trials and points outside
    the space are left out. Of more than 200 trials an axis is judged by a random 200, since 50 forests are fitted.

    Args:
        points: Values by axis of each trial.
        scores: Objective of each trial, shape (M,).
        axes: The axes.
    """
    inside = [place for place, point in enumerate(points) if fits(point, axes)]
    points, scores = [points[place] for place in inside], scores[inside]
    shares = []
    for axis in axes:
        rows = [row for row, point in enumerate(points) if axis.name in point]
        if len(rows) > MOST_TRIALS:
            rows = sorted(np.random.default_rng(0).choice(rows, MOST_TRIALS, replace=False).tolist())
        if len(rows) >= FEWEST_TRIALS and len({points[row][axis.name] for row in rows}) > 1:
            shares.append(_share(axis, [points[row] for row in rows], scores[rows], axes))
    return sorted(shares, key=lambda share: -share.value)


def _share(axis: Axis, points: list[dict[str, Any]], scores: np.ndarray, axes: Sequence[Axis]) -> Share:
    random = np.random.default_rng(0)
    everywhere = [one for one in axes if all(one.name in point for point in points)]
    value = _fanova(axis, points, scores, everywhere)
    draws = [random.integers(0, len(points), len(points)) for _ in range(_RESAMPLED)]
    resampled = [_fanova(axis, [points[row] for row in rows], scores[rows], everywhere) for rows in draws]
    low, high = np.percentile(resampled, [2.5, 97.5])
    own = [point[axis.name] for point in points]
    orders = [random.permutation(len(points)) for _ in range(SHUFFLES)]
    shuffled = [[point | {axis.name: own[row]} for point, row in zip(points, order, strict=True)] for order in orders]
    by_chance = max(_fanova(axis, others, scores, everywhere) for others in shuffled)
    return Share(axis.name, value, float(low), float(high), len(points), value > by_chance)


def _fanova(axis: Axis, points: Sequence[dict[str, Any]], scores: np.ndarray, axes: Sequence[Axis]) -> float:
    if np.ptp(scores) == 0:
        return 0.0
    study = optuna.create_study(direction="maximize")
    spaces = {one.name: axis_distribution(one) for one in axes}
    study.add_trials(
        optuna.trial.create_trial(
            params={name: point[name] for name in spaces}, distributions=spaces, value=float(score)
        )
        for point, score in zip(points, scores, strict=True)
    )
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=_TREES, seed=0)
    return float(optuna.importance.get_param_importances(study, evaluator=evaluator).get(axis.name, 0.0))
