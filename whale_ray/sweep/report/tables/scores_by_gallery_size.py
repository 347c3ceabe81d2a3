"""Says how the best score depends on the number of gallery photographs of an individual."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from whale_ray.retrieval.evaluation.score_names import INDIVIDUAL_SCORES, MAP, averages_individuals, query_score
from whale_ray.sweep.analysis.trial_comparison import Comparison
from whale_ray.sweep.report.tables.headline import is_number, show_score

_SIZES = {"1-3": "1 to 3 gallery photographs", "4-9": "4 to 9", "10+": "10 or more"}


def describe_mix(result: Mapping[str, Any], objective: str, comparison: Comparison | None = None) -> str:
    """Return the mix of a trial's known queries with the score of each class; "" if the trial has no mix.

    Args:
        result: Result of the trial.
        objective: Name of the score of the headline; the mix shows map@5 or recall@1, averaged as the objective.
        comparison: If given, the other average is cross-fitted over trials.
    """
    rows = [row for row in result.get("mix") or () if row["queries"]]
    if not rows:
        return ""
    over_queries = MAP if query_score(objective) == MAP else "recall@1"
    over_individuals = next(name for name in INDIVIDUAL_SCORES if query_score(name) == over_queries)
    shown, other = over_queries, over_individuals
    if averages_individuals(objective):
        shown, other = other, shown
    classes = [_describe_class(row, shown) for row in rows]
    if shown == MAP:
        classes += _unknown_queries(result, rows)
    mix = f"The score holds for this mix of animals ({shown} of each class): {'; '.join(classes)}."
    if comparison is not None and other in comparison.scores:
        found = comparison.scores[other]
        result = {other: found.value, f"{other}_low": found.low, f"{other}_high": found.high}
    return mix + _beside(result, other)


def _describe_class(row: Mapping[str, Any], name: str) -> str:
    counts = f"{row['queries']} queries of {row['individuals']} individuals"
    return f"{counts} with {_SIZES[row['images']]}: {show_score(row[name], name)}"


def _unknown_queries(result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the part of map@5 that is of queries without an individual in the gallery, as text; [] without any."""
    count = result["queries"] - sum(row["queries"] for row in rows)
    if not count:
        return []
    value = (result["queries"] * result[MAP] - sum(row["queries"] * row[MAP] for row in rows)) / count
    return [f"{count} queries of individuals that are not in the gallery: {show_score(value, MAP)}"]


def _beside(result: Mapping[str, Any], name: str) -> str:
    value, low, high = (result.get(f"{name}{end}") for end in ("", "_low", "_high"))
    if not is_number(value):
        return ""
    interval = f" (95 % interval {show_score(low, name)} to {show_score(high, name)})" if is_number(low) else ""
    if averages_individuals(name):
        remark = "the better forecast if seldom photographed individuals are more frequent elsewhere"
        return f" If each known individual counts once, {name} is {show_score(value, name)}{interval}: {remark}."
    return f" Averaged over queries, {name} is {show_score(value, name)}{interval}."
