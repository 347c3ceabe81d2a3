"""Curves of a run: recall@K and learning curves, and the short description of a trial."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from whale_ray.retrieval.evaluation.score_names import CUTOFFS
from whale_ray.sweep.planning.trial_points import label
from whale_ray.sweep.report.plots.scale import Scale, scale_of
from whale_ray.sweep.report.plots.svg import Curve, plot_curves
from whale_ray.sweep.run_folder.records import Record

_MOST_CURVES = 300
_EPOCHS = "epochs.csv"
LOOKS = ("c0", "c1", "c2", "c3", "c4")


@dataclass(frozen=True)
class Plot:
    """A plot with its title, legend (look, name) and note."""

    title: str
    svg: Markup
    legend: tuple[tuple[str, str], ...] = ()
    note: str = ""


def describe(record: Record) -> str:
    """Return a trial in few words, its id last."""
    point = record.point or {}
    words = label({name: show_value(point[name]) for name in sorted(point, key=_place)})
    if record.kind == "baseline":
        words = f"baseline, {words}" if words else "baseline"
    if record.kind == "ensemble":
        words = f"{' and '.join(record.settings['members'])} joined"
    return f"{words} ({record.trial})" if words else record.trial


def show_value(value: Any) -> str:
    """Return the value of an axis as text."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _place(name: str) -> tuple[int, int, str]:
    """Return the sort key of an axis in a description: encoder, loss, the loss's parameters, then the others."""
    first = ("model.encoder", "loss.name")
    place = first.index(name) if name in first else len(first)
    return place, 0 if name.startswith(("model.", "loss.")) else 1, name


def looks_of(records: Sequence[Record]) -> dict[str, str]:
    """Return the look (CSS class) of the best five trials and the baselines, by trial id."""
    trials = [record for record in records if record.kind != "baseline" and record.status != "failed"]
    looks = {record.trial: look for record, look in zip(trials, LOOKS, strict=False)}
    return looks | {record.trial: "base" for record in records if record.kind == "baseline"}


def plot_recall(records: Sequence[Record], looks: Mapping[str, str]) -> Plot | None:
    """Return recall@K of the best trials and the baselines, between chance and ceiling; None without a finished trial.

    Args:
        records: All trials, best first.
        looks: Look by trial id.
    """
    finished = [record for record in records if record.status == "finished" and record.trial in looks]
    finished = [record for record in finished if is_finite(record.result.get("recall@1"))]
    curves = [_recall(record, looks[record.trial], band=place == 0) for place, record in enumerate(finished)]
    if not curves:
        return None
    best = finished[0].result
    for name, title in (("ceiling", "ceiling: highest possible score"), ("chance", "chance: a random order")):
        points = tuple(
            (float(k), best[f"{name}/recall@{k}"]) for k in CUTOFFS if is_finite(best.get(f"{name}/recall@{k}"))
        )
        curves += [Curve(title, "limit", points)] if points else []
    x = Scale(CUTOFFS[0], CUTOFFS[-1], "K: number of candidates", log=True, marks=tuple(map(float, CUTOFFS)))
    svg = plot_curves(
        curves, x=x, y=Scale(0, 1, "recall@K", percent=True), alt=_alt_of_recall(curves[0], len(finished))
    )
    return Plot("recall@K", svg, _legend(curves), "The shaded band is the 95 % interval of the best trial.")


def _recall(record: Record, look: str, *, band: bool) -> Curve:
    score = record.result
    cutoffs = [k for k in CUTOFFS if is_finite(score.get(f"recall@{k}"))]
    points = tuple((float(k), float(score[f"recall@{k}"])) for k in cutoffs)
    ends = [(score.get(f"recall@{k}_low", math.nan), score.get(f"recall@{k}_high", math.nan)) for k in cutoffs]
    whole = band and all(is_finite(low) and is_finite(high) for low, high in ends)
    return Curve(describe(record), look, points, tuple(ends) if whole else ())


def _alt_of_recall(best: Curve, count: int) -> str:
    shares = ", ".join(f"{100 * share:.0f} % at K = {cutoff:.0f}" for cutoff, share in best.points)
    return f"Curves of recall@K of {count} trials. The best, {best.name}: {shares}."


def _legend(curves: Iterable[Curve]) -> tuple[tuple[str, str], ...]:
    return tuple((curve.look, curve.name) for curve in curves if curve.look != "faint")


def plot_learning(records: Sequence[Record], looks: Mapping[str, str], objective: str) -> list[Plot]:
    """Return the objective and each kind of loss by epoch; empty if nothing was trained.

    Args:
        records: All trials, best first.
        looks: Look by trial id.
        objective: Name of the score.
    """
    trained = [record for record in records if (record.folder / _EPOCHS).exists()]
    trained.sort(key=lambda record: record.trial not in looks)
    groups = [(objective, trained, objective)]
    for name in sorted({str(record.settings["loss"]["name"]) for record in trained}):
        groups.append((f"loss: {name}", [one for one in trained if one.settings["loss"]["name"] == name], "loss"))
    read = functools.cache(_read_epochs)  # a trial has a curve in several plots
    plots = [_learning(title, group, looks, read, column, objective) for title, group, column in groups]
    return [plot for plot in plots if plot is not None]


def _read_epochs(path: Path) -> pd.DataFrame:
    return pd.read_csv(path)


def _learning(
    title: str,
    group: Sequence[Record],
    looks: Mapping[str, str],
    read: Callable[[Path], pd.DataFrame],
    column: str,
    objective: str,
) -> Plot | None:
    curves = []
    for record in group[:_MOST_CURVES]:
        table = read(record.folder / _EPOCHS)
        scored = table.dropna(subset=[column]) if column in table else table.iloc[:0]
        points = (
            tuple(zip(scored["epoch"].astype(float), scored[column].astype(float), strict=True)) if len(scored) else ()
        )
        status = {"finished": "", "running": ", unfinished"}.get(record.status, f", {record.status}")
        if finite := tuple(point for point in points if math.isfinite(point[1])):
            name = describe(record) if column == objective else record.trial
            curves.append(Curve(name + status, looks.get(record.trial, "faint"), finite))
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
        f"Thin lines: {others} {'other trials' if len(group) <= _MOST_CURVES else 'of the other trials'}."
        if others
        else "",
    )


def _whole_marks(last: int) -> list[int]:
    """1 and round numbers up to `last`, ten at most."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 10**3, 10**4, 10**9) if last / step <= 10)
    return sorted({1, *range(step, last + 1, step)})


def is_share(name: str) -> bool:
    """Return whether a score is a share of queries, shown in percent."""
    return "recall@" in name


def is_finite(value: Any) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
