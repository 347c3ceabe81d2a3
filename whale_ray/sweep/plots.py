"""The plots of a run: recall@K, learning curves, the effect of each axis. From records of trials to figures.

Knows what a trial's folder holds and what is worth plotting of it; how a plot is drawn is known by `figures`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from whale_ray.sweep.axes import Axis
from whale_ray.sweep.figures import Curve, Row, Scale, plot_curves, plot_dots, plot_rows, scale_of
from whale_ray.sweep.leaderboard import CUTOFFS, Record
from whale_ray.sweep.plan import label

LOOKS = ("c0", "c1", "c2", "c3", "c4")
RETRIEVAL_AXES = ("vote", "neighbours", "temperature", "flip")
_MOST_ROWS = 8


@dataclass(frozen=True)
class Plot:
    """A plot with what stands around it. legend: (look, name) of the curves that have a name."""

    title: str
    svg: Markup
    legend: tuple[tuple[str, str], ...] = ()
    note: str = ""


def describe(record: Record) -> str:
    """The trial in few words, its id last."""
    words = label(record.point or {})
    if record.kind == "baseline":
        words = f"baseline, {words}" if words else "baseline"
    return f"{words} ({record.trial})" if words else record.trial


def looks_of(records: Sequence[Record]) -> dict[str, str]:
    """A look for each trial worth telling apart, by its id: the best five, and the baselines. In leaderboard order."""
    trials = [record for record in records if record.kind != "baseline" and record.status != "failed"]
    looks = {record.trial: look for record, look in zip(trials, LOOKS, strict=False)}
    return looks | {record.trial: "base" for record in records if record.kind == "baseline"}


def plot_recall(records: Sequence[Record], looks: Mapping[str, str]) -> Plot | None:
    """recall@K of the best few and the baselines, between chance and ceiling; None where no trial has finished."""
    finished = [record for record in records if record.status == "finished" and record.trial in looks]
    finished = [record for record in finished if _is_number(record.result.get("recall@1"))]
    curves = [_recall(record, looks[record.trial], band=place == 0) for place, record in enumerate(finished)]
    if not curves:
        return None
    best = finished[0].result
    for name, said in (("ceiling", "ceiling: the most that is possible"), ("chance", "chance: a random order")):
        points = tuple(
            (float(k), best[f"{name}/recall@{k}"]) for k in CUTOFFS if _is_number(best.get(f"{name}/recall@{k}"))
        )
        curves += [Curve(said, "limit", points)] if points else []
    x = Scale(1, 32, "K: individuals in the answer", log=True, marks=tuple(map(float, CUTOFFS)))
    svg = plot_curves(
        curves, x=x, y=Scale(0, 1, "recall@K", percent=True), alt=_alt_of_recall(curves[0], len(finished))
    )
    return Plot("recall@K", svg, _legend(curves), "The shaded band is the 95 % interval of the best trial.")


def _recall(record: Record, look: str, *, band: bool) -> Curve:
    score = record.result
    cutoffs = [k for k in CUTOFFS if _is_number(score.get(f"recall@{k}"))]
    points = tuple((float(k), float(score[f"recall@{k}"])) for k in cutoffs)
    ends = [(score.get(f"recall@{k}_low", math.nan), score.get(f"recall@{k}_high", math.nan)) for k in cutoffs]
    whole = band and all(_is_number(low) and _is_number(high) for low, high in ends)
    return Curve(describe(record), look, points, tuple(ends) if whole else ())


def _alt_of_recall(best: Curve, count: int) -> str:
    shares = ", ".join(f"{100 * share:.0f} % at K = {cutoff:.0f}" for cutoff, share in best.points)
    return f"Curves of recall@K of {count} trials. The best, {best.name}: {shares}."


def _legend(curves: Iterable[Curve]) -> tuple[tuple[str, str], ...]:
    return tuple((curve.look, curve.name) for curve in curves if curve.look != "faint")


def plot_learning(records: Sequence[Record], looks: Mapping[str, str], objective: str) -> list[Plot]:
    """How the objective rose, and how each kind of loss fell, epoch by epoch; empty where nothing was trained yet."""
    epochs = {record.trial: _epochs(record) for record in records}
    trained = [record for record in records if len(epochs[record.trial])]
    trained.sort(key=lambda record: record.trial not in looks)
    groups = [(objective, trained, objective)]
    for name in sorted({str(record.settings["loss"]["name"]) for record in trained}):
        groups.append((f"loss: {name}", [one for one in trained if one.settings["loss"]["name"] == name], "loss"))
    plots = [_learning(title, group, looks, epochs, column) for title, group, column in groups]
    return [plot for plot in plots if plot is not None]


def _epochs(record: Record) -> pd.DataFrame:
    path = record.folder / "epochs.csv"
    return pd.read_csv(path) if path.exists() else pd.DataFrame()


def _learning(
    title: str, group: Sequence[Record], looks: Mapping[str, str], epochs: Mapping[str, pd.DataFrame], column: str
) -> Plot | None:
    curves = []
    for record in group:
        table = epochs[record.trial]
        scored = table.dropna(subset=[column]) if column in table else table.iloc[:0]
        points = (
            tuple(zip(scored["epoch"].astype(float), scored[column].astype(float), strict=True)) if len(scored) else ()
        )
        status = "" if record.status == "finished" else f" {record.status}"
        if finite := tuple(point for point in points if math.isfinite(point[1])):
            curves.append(Curve(describe(record) + status, looks.get(record.trial, "faint"), finite))
    if not curves:
        return None
    last = max(at for curve in curves for at, _ in curve.points)
    y = scale_of([value for curve in curves for _, value in curve.points], title, percent=is_share(column), zero=True)
    x = Scale(1, max(last, 2), "epoch", marks=tuple(float(mark) for mark in _whole_marks(int(max(last, 2)))))
    alt = f"Curves of {title} over {last:.0f} epochs of {len(curves)} trials."
    others = sum(curve.look == "faint" for curve in curves)
    return Plot(
        title,
        plot_curves(curves, x=x, y=y, alt=alt),
        _legend(curves),
        f"Thin lines: {others} other trials." if others else "",
    )


def _whole_marks(last: int) -> list[int]:
    """1 and round numbers up to `last`, ten at most."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 10**3, 10**4, 10**9) if last / step <= 10)
    return sorted({1, *range(step, last + 1, step)})


def plot_effects(records: Sequence[Record], axes: Sequence[Axis], objective: str) -> list[Plot]:
    """For each axis, the objective of the finished trials by its value, the most telling axis first.

    An axis of an alternative is shown for the trials that have it; retrieval axes with the best score a trial
    reaches at each of their values.
    """
    finished = [record for record in records if record.status == "finished" and record.kind == "trial"]
    trials = [record for record in finished if _is_number(record.result.get(objective))]
    found: list[tuple[str, list[Point], Axis | None]]
    found = [(axis.name, _at_axis(trials, axis.name, objective), axis) for axis in axes]
    found += [(f"retrieval.{name}", _at_retrieval(trials, name, objective), None) for name in RETRIEVAL_AXES]
    effects = [
        _effect(name, points, axis, objective) for name, points, axis in found if len({p[0] for p in points}) > 1
    ]
    return [plot for _, plot in sorted(effects, key=lambda effect: -effect[0])]


Point = tuple[Any, float, str]


def _at_axis(trials: Sequence[Record], name: str, objective: str) -> list[Point]:
    have = [record for record in trials if (record.point or {}).get(name) is not None]
    return [(record.point[name], float(record.result[objective]), describe(record)) for record in have]


def _at_retrieval(trials: Sequence[Record], name: str, objective: str) -> list[Point]:
    points: list[Point] = []
    for record in trials:
        path = record.folder / "retrieval.csv"
        table = pd.read_csv(path) if path.exists() else pd.DataFrame()
        if name in table and objective in table:
            best = table.dropna(subset=[name]).groupby(name)[objective].max()
            points += [(value, float(score), describe(record)) for value, score in best.items()]
    return points


def _effect(name: str, points: Sequence[Point], axis: Axis | None, objective: str) -> tuple[float, Plot]:
    scores = scale_of([score for _, score, _ in points], objective, percent=is_share(objective))
    values = sorted({value for value, _, _ in points}, key=_order(axis))
    if len(values) > _MOST_ROWS and all(_is_number(value) for value in values):
        return _scatter(name, points, axis, scores)
    rows = [_row(value, points) for value in values]
    means = [sum(row.values) / len(row.values) for row in rows]
    spread = max(means) - min(means)
    best = rows[means.index(max(means))].label
    note = f"Means differ by up to {scores.text(spread)}; highest at {best}." + _where(axis)
    alt = f"Dots of {objective} by {name}. " + ", ".join(
        f"{row.label}: mean {scores.text(mean)}" for row, mean in zip(rows, means, strict=True)
    )
    return spread, Plot(name, plot_rows(rows, x=scores, alt=alt), note=note)


def _row(value: Any, points: Sequence[Point]) -> Row:
    own = [(score, said) for at, score, said in points if at == value]
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return Row(shown, tuple(score for score, _ in own), tuple(said for _, said in own))


def _scatter(name: str, points: Sequence[Point], axis: Axis | None, scores: Scale) -> tuple[float, Plot]:
    places = [float(value) for value, _, _ in points]
    values = tuple(score for _, score, _ in points)
    x = scale_of(places, name, log=bool(axis and axis.log))
    thirds = pd.Series(values, index=places).sort_index()
    cut = max(1, len(thirds) // 3)
    low, high = float(thirds.iloc[:cut].mean()), float(thirds.iloc[-cut:].mean())
    note = f"Mean of the lowest third of values {scores.text(low)}, of the highest third {scores.text(high)}." + _where(
        axis
    )
    svg = plot_dots(
        Row(name, values, tuple(said for _, _, said in points)),
        places,
        x=x,
        y=scores,
        alt=f"Dots of {scores.label} by {name}. {note}",
    )
    return abs(high - low), Plot(name, svg, note=note)


def _order(axis: Axis | None) -> Callable[[Any], tuple[float, str]]:
    """The order in which the sweep file lists the values; else numbers by size, then words."""
    listed = list(axis.listed() or ()) if axis else []
    places = {value: place for place, value in enumerate(listed)}
    return lambda value: (places.get(value, value if _is_number(value) else math.inf), str(value))


def _where(axis: Axis | None) -> str:
    return f" Only where {axis.when[0]} is {axis.when[1]}." if axis and axis.when else ""


def is_share(name: str) -> bool:
    """Whether a score is a share of queries, shown in percent."""
    return "recall@" in name


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
