"""Plots of the objective: by the values of each axis, and against a second objective."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from whale_ray.retrieval.search.retrieval_settings import SETTING_FIELDS
from whale_ray.sweep.config.axes import Axis
from whale_ray.sweep.file_cache import FileCache
from whale_ray.sweep.report.plots.curves import Plot, describe, is_finite, is_share, show_value
from whale_ray.sweep.report.plots.scale import Scale, scale_of
from whale_ray.sweep.report.plots.svg import Curve, Row, plot_curves, plot_dots, plot_rows
from whale_ray.sweep.run_folder.records import Record

RETRIEVAL_AXES = SETTING_FIELDS
_MOST_ROWS = 8
_MOST_DOTS = 600  # of a plot; each has a label for the mouse


def plot_effects(records: Sequence[Record], axes: Sequence[Axis], objective: str) -> list[Plot]:
    """Return one plot per axis: the objective of the finished trials by value, the axis with the largest effect first.

    An axis of an alternative is shown for the trials that have it. A retrieval axis shows the best score that a trial
    reaches with each value.

    Args:
        records: All trials, best first.
        axes: The axes.
        objective: Name of the score.
    """
    finished = [record for record in records if record.status == "finished" and record.kind == "trial"]
    trials = [record for record in finished if is_finite(record.result.get(objective))]
    found: list[tuple[str, list[Point], Axis | None]]
    found = [(axis.name, _at_axis(trials, axis.name, objective), axis) for axis in axes]
    tables = [(record, _best_settings_of(record, objective)) for record in trials]
    found += [(f"retrieval.{name}", _at_retrieval(tables, name), None) for name in RETRIEVAL_AXES]
    effects = [
        _effect(name, points, axis, objective) for name, points, axis in found if len({p[0] for p in points}) > 1
    ]
    return [plot for _, plot in sorted(effects, key=lambda effect: -effect[0])]


Point = tuple[Any, float, str]


def _at_axis(trials: Sequence[Record], name: str, objective: str) -> list[Point]:
    have = [record for record in trials if (record.point or {}).get(name) is not None]
    return [(record.point[name], float(record.result[objective]), describe(record)) for record in have]


BestScores = dict[str, dict[Any, float]]


def _best_settings_of(record: Record, objective: str) -> BestScores:
    """Return the best score that a trial reaches with each value of each retrieval axis, values in order."""
    path = record.folder / "retrieval.csv"
    return _best_settings_in(path, objective) if path.exists() else {}


def _read_best_settings(path: Path, objective: str) -> BestScores:
    rows = pd.read_csv(path).to_dict("records")  # a comparison by pandas takes a millisecond per axis
    found: BestScores = {}
    for name in RETRIEVAL_AXES:
        scores: dict[Any, float] = {}
        for row in rows:
            if not pd.isna(row.get(name)) and not pd.isna(row.get(objective)):
                scores[row[name]] = max(float(row[objective]), scores.get(row[name], -math.inf))
        if scores:
            found[name] = dict(sorted(scores.items()))
    return found


_best_settings_in = FileCache(_read_best_settings)


def _at_retrieval(tables: Sequence[tuple[Record, BestScores]], name: str) -> list[Point]:
    return [(value, score, describe(record)) for record, best in tables for value, score in best.get(name, {}).items()]


def _effect(name: str, points: Sequence[Point], axis: Axis | None, objective: str) -> tuple[float, Plot]:
    scores = scale_of([score for _, score, _ in points], objective, percent=is_share(objective))
    values = sorted({value for value, _, _ in points}, key=_order(axis))
    if len(values) > _MOST_ROWS and all(is_finite(value) for value in values):
        return _scatter(name, points, axis, scores)
    rows = [_row(value, points) for value in values]
    means = [sum(row.values) / len(row.values) for row in rows]
    spread = max(means) - min(means)
    best = rows[means.index(max(means))].label
    note = f"Means differ by up to {scores.difference(spread)}; highest at {best}." + _where(axis)
    alt = f"Dots of {objective} by {name}. " + ", ".join(
        f"{row.label}: mean {scores.text(mean)}" for row, mean in zip(rows, means, strict=True)
    )
    most = _MOST_DOTS // len(rows)
    rows = [dataclasses.replace(row, stride=_stride(row.values, most)) for row in rows]
    note += _drawn(sum(len(row.values[:: row.stride]) for row in rows), len(points))
    return spread, Plot(name, plot_rows(rows, x=scores, alt=alt), note=note)


def _row(value: Any, points: Sequence[Point]) -> Row:
    own = [(score, label) for at, score, label in points if at == value]
    return Row(show_value(value), tuple(score for score, _ in own), tuple(label for _, label in own))


def _scatter(name: str, points: Sequence[Point], axis: Axis | None, scores: Scale) -> tuple[float, Plot]:
    places = [float(value) for value, _, _ in points]
    values = tuple(score for _, score, _ in points)
    x = scale_of(places, name, log=bool(axis and axis.log))
    thirds = pd.Series(values, index=places).sort_index()
    cut = max(1, len(thirds) // 3)
    low, high = float(thirds.iloc[:cut].mean()), float(thirds.iloc[-cut:].mean())
    best = places[values.index(max(values))]
    note = f"Mean of the lowest third {scores.text(low)}, of the highest third {scores.text(high)}; best at {best:.3g}."
    note += _where(axis)
    stride = _stride(values, _MOST_DOTS)
    row = Row(name, values[::stride], tuple(label for _, _, label in points[::stride]))
    note += _drawn(len(row.values), len(values))
    svg = plot_dots(
        row,
        places[::stride],
        x=x,
        y=scores,
        alt=f"Dots of {scores.label} by {name}. {note}",
    )
    return abs(high - low), Plot(name, svg, note=note)


def _stride(values: Sequence[float], most: int) -> int:
    """Return the step with which at most so many values are taken, the first one included."""
    return math.ceil(len(values) / most)


def _drawn(drawn: int, count: int) -> str:
    return f" {drawn} of {count} dots are drawn." if drawn < count else ""


def _order(axis: Axis | None) -> Callable[[Any], tuple[float, str]]:
    """Return the order of an axis's values: that of the sweep file, else numbers by size, then words."""
    listed = list(axis.listed() or ()) if axis else []
    places = {value: place for place, value in enumerate(listed)}
    return lambda value: (places.get(value, value if is_finite(value) else math.inf), str(value))


def _where(axis: Axis | None) -> str:
    return f" Only where {axis.when[0]} is {axis.when[1]}." if axis and axis.when else ""


_SAID = {"milliseconds_per_image": "milliseconds a photograph"}


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points (cost, score) on the Pareto front, by cost.

    >>> pareto_front([(1.0, 0.2), (2.0, 0.5), (3.0, 0.4), (2.0, 0.3)])
    [0, 1]
    """
    front: list[int] = []
    for place in sorted(range(len(points)), key=lambda place: (points[place][0], -points[place][1])):
        if not front or points[place][1] > points[front[-1]][1]:
            front.append(place)
    return front


def front_of(records: Sequence[Record], *, score: str, cost: str) -> list[Record]:
    """Return the finished trials on the Pareto front, the cheapest first.

    Args:
        records: All trials.
        score: Name of the score.
        cost: Name of the cost.
    """
    known = _known(records, score, cost)
    places = pareto_front([(float(one.result[cost]), float(one.result[score])) for one in known])
    return [known[place] for place in places]


def plot_tradeoff(records: Sequence[Record], *, score: str, cost: str) -> Plot | None:
    """Return score against cost of the finished trials with the Pareto front; None if there are none.

    Args:
        records: All trials.
        score: Name of the score.
        cost: Name of the cost.
    """
    known, front = _known(records, score, cost), front_of(records, score=score, cost=cost)
    if not front:
        return None
    place = {one.trial: (float(one.result[cost]), float(one.result[score])) for one in known}
    best = {one.trial for one in front}
    line = Curve("the front: no trial is better in both", "c0", tuple(place[one.trial] for one in front))
    others = [Curve(describe(one), "c1", (place[one.trial],)) for one in known if one.trial not in best]
    x = scale_of([cost for cost, _ in place.values()], _SAID.get(cost, cost), zero=True)
    y = scale_of([score for _, score in place.values()], score, percent=is_share(score))
    front_text = "; ".join(
        f"{describe(one)}: {y.text(place[one.trial][1])} at {x.text(place[one.trial][0])}" for one in front
    )
    svg = plot_curves([line, *others], x=x, y=y, alt=f"{score} against {x.label}. On the front: {front_text}.")
    legend = (("c0", line.name), *((("c1", "other trials"),) if others else ()))
    return Plot(f"{score} against {x.label}", svg, legend, "Measured as the trial embedded its photographs.")


def _known(records: Sequence[Record], score: str, cost: str) -> list[Record]:
    finished = [one for one in records if one.status == "finished"]
    return [one for one in finished if is_finite(one.result.get(score)) and is_finite(one.result.get(cost))]
