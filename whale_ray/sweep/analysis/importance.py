"""Axis importance: differences on the same queries, and shares of the variance of a search."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from whale_ray.atomic_files import write_atomically
from whale_ray.errors import InputError
from whale_ray.retrieval.search.retrieval_options import effective_values
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting
from whale_ray.sweep.analysis.fanova import FEWEST_TRIALS, MOST_TRIALS, explain
from whale_ray.sweep.analysis.paired_contrasts import (
    Contrast,
    Estimate,
    Spread,
    axes_with_many_values,
    estimate,
    left_over,
    main_effects,
    matched_contrasts,
    pooled_spread,
)
from whale_ray.sweep.analysis.per_query_scores import Outcomes, of_settings, of_trials, query_scores
from whale_ray.sweep.config.screening_design import confounding, describe_aliases, screen
from whale_ray.sweep.config.sweep_spec import Sweep
from whale_ray.sweep.run_folder.records import Record
from whale_ray.sweep.trials.scoring import scoring_of

PAIRED, EFFECT, SHARE, FLOOR = "paired difference", "main effect", "share of the spread", "noise floor"
_LEADING = 5


@dataclass(frozen=True)
class Row:
    """One row of importance.csv.

    Attributes:
        axis: The axis.
        how: Kind of the row: a difference, a share or a standard deviation.
        first: First value of a difference.
        second: Second value of a difference.
        value: The difference (`second` minus `first`), share or standard deviation; NaN if unknown.
        low: Lower end of the 95 % interval.
        high: Upper end.
        compared: Matched pairs of a difference, else trials.
        verdict: `beyond noise`, `noise` or `no interval`.
        note: Noise that the interval includes, or why there is none.
        confounded_with: Interactions that a main effect of a screen may be instead.
    """

    axis: str
    how: str
    first: Any
    second: Any
    value: float
    low: float
    high: float
    compared: int
    verdict: str
    note: str
    confounded_with: str = ""


def judge_importance(records: Sequence[Record], sweep: Sweep, *, quick: bool = False) -> list[Row]:
    """Return every difference and share that the finished trials support: training axes, retrieval axes, seeds.

    Args:
        records: All trials, best first.
        sweep: The sweep.
        quick: Leave out the shares and the retrieval axes, which take longer.
    """
    trained = [one for one in records if one.kind != "baseline" and one.status == "finished"]
    trained = [one for one in trained if one.result.get(sweep.objective) is not None]
    trials = [one for one in trained if one.kind == "trial"]
    by_seed = pooled_spread(_scores_by_seed(trained, sweep.objective))
    rows = _of_axes(trials, sweep, by_seed)
    if not quick:
        rows += [*_of_search(trials, sweep), *_of_retrieval(trials[:_LEADING], sweep)]
    return rows + _floor(by_seed)


def write_importance(rows: Sequence[Row], path: Path) -> None:
    """Write importance.csv.

    Args:
        rows: The rows.
        path: The file.
    """
    columns = [field.name for field in fields(Row)]
    write_atomically(path, pd.DataFrame([asdict(row) for row in rows], columns=columns).to_csv(index=False))


def _scores_by_seed(trained: Sequence[Record], objective: str) -> Iterator[list[float]]:
    groups: dict[str, list[float]] = defaultdict(list)
    for record in trained:
        groups[json.dumps({**record.settings, "seed": 0}, sort_keys=True)].append(float(record.result[objective]))
    yield from groups.values()


def _floor(spread: Spread | None) -> list[Row]:
    """Return the standard deviation over seeds: smaller differences than about three of it are luck."""
    if spread is None:
        return []
    note = f"standard deviation of the score over seeds, all else equal; {spread.freedom} degrees of freedom"
    return [Row("seed", FLOOR, "", "", spread.deviation, np.nan, np.nan, spread.freedom + 1, FLOOR, note)]


def _of_axes(trials: Sequence[Record], sweep: Sweep, by_seed: Spread | None) -> list[Row]:
    same, outcomes = of_trials(trials, sweep.objective)
    if outcomes is None:
        return []
    points = [_whole_point(record, sweep) for record in same]
    screened = sweep.fixed["search.strategy"] == "screen"
    values = {axis.name: axis.listed() or () for axis in sweep.axes if screened or axis.name != "seed"}
    if not screened:
        listed = {name: own for name, own in values.items() if own}
        rows = _differences(PAIRED, matched_contrasts(points, listed), outcomes, by_seed, _noise(by_seed))
        return rows + _not_compared(axes_with_many_values(points, listed))
    fitting = [place for place, point in enumerate(points) if _lies_in(point, values)]
    points = [points[place] for place in fitting]
    outcomes = Outcomes(outcomes.scores[:, fitting], outcomes.clusters, outcomes.folds)
    spread = by_seed or left_over(points, values, outcomes.scores.mean(axis=0))
    note = (
        _noise(by_seed)
        if by_seed or spread is None
        else "of a main effect allows for other queries and for what main effects leave over: seeds, interactions"
    )
    rows = _differences(EFFECT, main_effects(points, values), outcomes, spread, note)
    mixed = _confounded(list(values), int(sweep.fixed["search.trials"]))
    return [dataclasses.replace(row, confounded_with=mixed[row.axis]) for row in rows]


def _not_compared(counts: Mapping[str, int]) -> list[Row]:
    notes = {axis: f"of {axis} is not given: {count} values are too many to compare" for axis, count in counts.items()}
    return [Row(axis, PAIRED, "", "", np.nan, np.nan, np.nan, 0, "no interval", note) for axis, note in notes.items()]


def _confounded(names: Sequence[str], runs: int) -> dict[str, str]:
    found = confounding(screen(len(names), runs))
    return {name: describe_aliases(aliases, names) for name, aliases in zip(names, found.aliases, strict=True)}


def _whole_point(record: Record, sweep: Sweep) -> dict[str, Any]:
    """Return the trial's point, with the value that it has on axes added to the sweep later."""
    point = dict(record.point)
    for axis in sweep.axes:
        section, _, short = axis.name.rpartition(".")
        holder = record.settings.get(section, {}) if section else record.settings
        if axis.when is None and axis.name not in point and short in holder:
            point[axis.name] = holder[short]
    return point


def _lies_in(point: Mapping[str, Any], values: Mapping[str, Sequence[Any]]) -> bool:
    return point.keys() == values.keys() and all(point[name] in own for name, own in values.items())


def _noise(by_seed: Spread | None) -> str:
    if by_seed:
        return "of a training axis allows for other queries and for other seeds"
    return "of a training axis allows for other queries, not for other seeds, since none was repeated"


def _differences(
    how: str, contrasts: Sequence[Contrast], outcomes: Outcomes, spread: Spread | None, note: str
) -> list[Row]:
    found = estimate(contrasts, outcomes.scores, outcomes.clusters, spread=spread)
    if any(own.verdict == "no interval" for own in found):
        note = "cannot be given: the queries are of too few individuals"
    return _rows(how, contrasts, found, note)


def _rows(how: str, contrasts: Sequence[Contrast], found: Sequence[Estimate], note: str) -> list[Row]:
    return [
        Row(one.axis, how, one.first, one.second, own.value, own.low, own.high, one.compared, own.verdict, note)
        for one, own in zip(contrasts, found, strict=True)
    ]


def _of_search(trials: Sequence[Record], sweep: Sweep) -> list[Row]:
    """Shares of the spread in a search that draws its points."""
    if sweep.fixed["search.strategy"] not in ("random", "optuna") or len(trials) < FEWEST_TRIALS:
        return []
    scores = np.array([one.result[sweep.objective] for one in trials], dtype=float)
    few = f"a random {MOST_TRIALS} of the " if len(trials) > MOST_TRIALS else ""
    where = {axis.name: f", where {axis.when[0]} is {axis.when[1]}" for axis in sweep.axes if axis.when}
    return [
        Row(
            *(one.axis, SHARE, "", "", one.value, one.low, one.high, one.among),
            "beyond noise" if one.beyond_noise else "noise",
            f"fANOVA over {few}finished trials{where.get(one.axis, '')}; "
            "interval over resampled trials, noise by shuffles",
        )
        for one in explain([one.point for one in trials], scores, sweep.axes)
    ]


def _of_retrieval(trials: Sequence[Record], sweep: Sweep) -> list[Row]:
    """Differences between values of a retrieval axis over the leading trials, each setting on the same queries."""
    axes = {f"retrieval.{name}": values for name, values in sweep.retrieval.items() if len(values) > 1}
    settings = scoring_of(sweep).retrieval
    if not axes or not trials:
        return []
    points = [_setting_point(record.trial, setting, axes) for record in trials for setting in settings]
    contrasts = matched_contrasts(points, axes)
    queries = query_scores(trials[0], sweep.objective)
    if not len(queries.names):
        return []
    try:
        found = [of_settings(record, settings, sweep.objective) for record in trials]
    except InputError as error:
        means = _table_means(trials, settings, sweep.objective)
        plain = [Estimate(float(one.weights @ means), np.nan, np.nan) for one in contrasts]
        return _rows(
            PAIRED, contrasts, plain, f"of a retrieval axis cannot be given, since only retrieval.csv is there: {error}"
        )
    scores = np.concatenate([pd.DataFrame(each, index=images).loc[queries.names] for images, each in found], axis=1)
    outcomes = Outcomes(scores, queries.clusters, queries.folds)
    over = f"over the {len(trials)} leading trials, " if len(trials) > 1 else ""
    note = f"of a retrieval axis, {over}allows for other queries"
    rows = _differences(PAIRED, contrasts, outcomes, None, note)
    return rows + _not_compared(axes_with_many_values(points, axes))


def _setting_point(trial: str, setting: RetrievalSetting, axes: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Return a setting as a point: its trial and the axes that have an effect in it."""
    values = {f"retrieval.{name}": value for name, value in effective_values(asdict(setting)).items()}
    return {"trial": trial} | {name: values[name] for name in axes if name in values and values[name] in axes[name]}


def _table_means(trials: Sequence[Record], settings: Sequence[RetrievalSetting], objective: str) -> np.ndarray:
    """Return the objective of each setting of each trial from retrieval.csv; NaN if missing."""
    means = []
    for record in trials:
        path = record.folder / "retrieval.csv"
        table = pd.read_csv(path) if path.exists() else pd.DataFrame()
        fits = len(table) == len(settings) and objective in table
        means.append(table[objective].to_numpy(dtype=float) if fits else np.full(len(settings), np.nan))
    return np.concatenate(means)
