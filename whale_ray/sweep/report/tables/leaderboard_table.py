"""Leaderboard of the page: all trials, best first, and the trade-off between two objectives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from whale_ray.retrieval.search.retrieval_options import describe_setting
from whale_ray.sweep.analysis.trial_comparison import Difference
from whale_ray.sweep.planning.trial_points import epochs_of
from whale_ray.sweep.report.context import ReportContext
from whale_ray.sweep.report.plots.curves import Plot
from whale_ray.sweep.report.plots.objective_plots import front_of, plot_tradeoff
from whale_ray.sweep.run_folder.records import Record

MOST_ROWS = 500  # beyond which a browser takes seconds to show and sort the table


@dataclass(frozen=True)
class LeaderboardRow:
    """One trial: its rank, record, axis values, difference to the best trial, retrieval setting and epochs."""

    rank: int
    record: Record
    result: Mapping[str, Any]
    point: tuple[Any, ...]
    beside: Difference | None
    vote: str
    epochs: str


@dataclass(frozen=True)
class LeaderboardSection:
    """The best trials and all failed ones, the number of others, and the trade-off between two objectives."""

    rows: tuple[LeaderboardRow, ...]
    hidden: int
    axes: tuple[str, ...]
    tradeoff: Plot | None
    front: tuple[Record, ...]


def build_leaderboard(page: ReportContext) -> LeaderboardSection:
    """Return the leaderboard section."""
    axes = tuple(axis.name for axis in page.sweep.axes)
    judged = page.comparison.differences if page.comparison and page.comparison.judged else {}
    rows = tuple(
        LeaderboardRow(
            rank=rank,
            record=record,
            result=record.result,
            point=tuple((record.point or {}).get(axis) for axis in axes),
            beside=judged.get(record.trial),
            vote=describe_setting(record.result),
            epochs=_show_epochs(record),
        )
        for rank, record in enumerate(page.records, 1)
        if rank <= MOST_ROWS or record.status == "failed"
    )
    hidden = len(page.records) - len(rows)
    if not page.sweep.also:
        return LeaderboardSection(rows, hidden, axes, None, ())
    both = {"score": page.objective, "cost": page.sweep.also}
    front = tuple(front_of(page.records, **both))
    return LeaderboardSection(rows, hidden, axes, plot_tradeoff(page.records, **both), front)


def _show_epochs(record: Record) -> str:
    done = record.result.get("epochs")
    if record.status == "finished" or record.settings.get("train", {}).get("epochs") is None:
        return "" if done is None else str(done)
    return f"{done or 0} of {epochs_of(record.settings)}"
