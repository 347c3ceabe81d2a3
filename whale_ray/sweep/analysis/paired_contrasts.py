"""Paired contrasts between trials on the same queries, with intervals from two sources of noise.

A contrast is a weighted sum of columns whose weights sum to zero. Noise from the choice of animals is estimated by
resampling clusters of queries. Noise from the training seed is known from repeated seeds, or in a screen from the
residuals of the main effects.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement, product
from typing import Any

import numpy as np

from whale_ray.retrieval.evaluation.query_clusters import bootstrap_interval

Point = Mapping[str, Any]
MOST_VALUES = 20
"""Values of an axis that are compared with each other: time and memory grow with their square."""


@dataclass(frozen=True)
class Contrast:
    """`second` less `first` of an axis: a weight for each of M columns. compared: how many matched pairs, or trials."""

    axis: str
    first: Any
    second: Any
    weights: np.ndarray
    compared: int


@dataclass(frozen=True)
class Spread:
    """Standard deviation of a score over training seeds, and its degrees of freedom."""

    deviation: float
    freedom: int


@dataclass(frozen=True)
class Estimate:
    """A difference with its 95 % interval; NaN with too few clusters."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """`beyond noise` if the interval excludes zero, `noise` if it contains it, else `no interval`."""
        if np.isnan(self.low):
            return "no interval"
        return "beyond noise" if self.low > 0 or self.high < 0 else "noise"


def axes_with_many_values(points: Sequence[Point], axes: Iterable[str]) -> dict[str, int]:
    """Return the number of values of each axis whose values are too many to compare with each other.

    Args:
        points: Values by axis of each column.
        axes: Names of axes.
    """
    counts = {axis: len({repr(point[axis]) for point in points if axis in point}) for axis in axes}
    return {axis: count for axis, count in counts.items() if count > MOST_VALUES}


def matched_contrasts(points: Sequence[Point], axes: Mapping[str, Sequence[Any]]) -> list[Contrast]:
    """Return, per axis and pair of its values, the mean over all matched pairs of columns.

    Two columns match if they differ in that axis alone. An option that only one of them has counts as no difference.
    Axes with more than MOST_VALUES values have none.

    >>> points = [{"k": 1, "flip": "no"}, {"k": 5, "flip": "no"}, {"k": 1, "flip": "yes"}, {"k": 5, "flip": "yes"}]
    >>> [(one.axis, one.weights.tolist()) for one in matched_contrasts(points, {"k": [1, 5]})]
    [('k', [-0.5, 0.5, -0.5, 0.5])]

    Args:
        points: Values by axis of each column.
        axes: Values of each axis, in order.
    """
    many = axes_with_many_values(points, axes)
    return [
        Contrast(axis, values[low], values[high], _mean_of(pairs, len(points)), len(pairs))
        for axis, values in axes.items()
        if axis not in many
        for (low, high), pairs in sorted(_matched_pairs(points, axis, values).items())
    ]


def _matched_pairs(
    points: Sequence[Point], axis: str, values: Sequence[Any]
) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Return the matched pairs of columns by the places of their two values, without looking at all pairs."""
    kinds: dict[frozenset[str], list[int]] = defaultdict(list)
    for column, point in enumerate(points):
        if axis in point and point[axis] in values:
            kinds[frozenset(point)].append(column)
    pairs: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for one, other in combinations_with_replacement(kinds, 2):
        others = sorted((one & other) - {axis})
        left, right = (_alike(points, kinds[kind], others) for kind in (one, other))
        for key in left.keys() & right.keys():
            for first, second in combinations(left[key], 2) if one == other else product(left[key], right[key]):
                low, high = sorted((values.index(points[column][axis]), column) for column in (first, second))
                if low[0] != high[0]:
                    pairs[low[0], high[0]].append((low[1], high[1]))
    return pairs


def _alike(points: Sequence[Point], columns: Sequence[int], names: Sequence[str]) -> dict[tuple[Any, ...], list[int]]:
    groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for column in columns:
        groups[tuple(_hashable(points[column][name]) for name in names)].append(column)
    return groups


def _hashable(value: Any) -> Any:
    return value if isinstance(value, Hashable) else repr(value)


def _mean_of(pairs: Sequence[tuple[int, int]], columns: int) -> np.ndarray:
    weights = np.zeros(columns)
    for first, second in pairs:
        weights[first] -= 1.0 / len(pairs)
        weights[second] += 1.0 / len(pairs)
    return weights


def main_effects(points: Sequence[Point], axes: Mapping[str, Sequence[Any]]) -> list[Contrast]:
    """Return the main effect of each two-valued axis, fitted together by least squares.

    In a complete screen it is the mean at the second value minus the mean at the first. Axes that the trials cannot
    separate have none.

    Args:
        points: Values by axis of each trial.
        axes: Values of each axis, in order.
    """
    design = _design(points, axes)
    inverse = np.linalg.pinv(design)
    known = np.abs(inverse @ design - np.eye(design.shape[1])).max(axis=1) < 1e-9
    return [
        Contrast(axis, values[0], values[1], 2.0 * inverse[place], len(points))
        for place, (axis, values) in enumerate(axes.items(), start=1)
        if known[place]
    ]


def left_over(points: Sequence[Point], axes: Mapping[str, Sequence[Any]], means: np.ndarray) -> Spread | None:
    """Return the spread of the trial means around the main effects; None if no degrees of freedom remain.

    Args:
        points: Values by axis of each trial.
        axes: Values of each axis, in order.
        means: Mean score of each trial, shape (M,).
    """
    design = _design(points, axes)
    freedom = len(points) - int(np.linalg.matrix_rank(design))
    if freedom < 1:
        return None
    rest = means - design @ (np.linalg.pinv(design) @ means)
    return Spread(float(np.sqrt(rest @ rest / freedom)), freedom)


def _design(points: Sequence[Point], axes: Mapping[str, Sequence[Any]]) -> np.ndarray:
    """(M, 1 + axes): ones, then -1 at an axis's first value and 1 at its second."""
    columns = [[1.0 if point[axis] == values[1] else -1.0 for point in points] for axis, values in axes.items()]
    return np.column_stack([np.ones(len(points)), *columns])


def pooled_spread(groups: Iterator[Sequence[float]]) -> Spread | None:
    """Return the spread within groups of trainings that differ in the seed only; None without a group of two.

    >>> pooled_spread(iter([[0.5, 0.7], [0.2]])).freedom
    1
    """
    repeated = [np.asarray(group) for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in repeated)
    if not freedom:
        return None
    return Spread(float(np.sqrt(sum(((group - group.mean()) ** 2).sum() for group in repeated) / freedom)), freedom)


def estimate(
    contrasts: Sequence[Contrast], scores: np.ndarray, clusters: np.ndarray, *, spread: Spread | None
) -> list[Estimate]:
    """Return each contrast of the scores with its interval.

    Args:
        contrasts: The contrasts.
        scores: Score of each query in each column, shape (Q, M).
        clusters: Cluster of each query, shape (Q,).
        spread: Spread over seeds; None if unknown.
    """
    if not contrasts:
        return []
    values = scores @ np.column_stack([one.weights for one in contrasts])
    low, high = bootstrap_interval(values, np.ones(values.shape, dtype=bool), clusters)
    means = values.mean(axis=0)
    by_seed = np.array([_half_width(one, spread) for one in contrasts])
    below, above = (np.sqrt(reach**2 + by_seed**2) for reach in (means - low, high - means))
    return [Estimate(*map(float, each)) for each in zip(means, means - below, means + above, strict=True)]


def _half_width(contrast: Contrast, spread: Spread | None) -> float:
    if spread is None:
        return 0.0
    from scipy.stats import t

    return float(t.ppf(0.975, spread.freedom) * spread.deviation * np.linalg.norm(contrast.weights))
