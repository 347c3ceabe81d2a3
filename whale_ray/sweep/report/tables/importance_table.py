"""Importance table of the page: largest differences, shares of the variance and the noise floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whale_ray.sweep.analysis.importance import FLOOR, SHARE, Row
from whale_ray.sweep.report.plots.curves import is_share
from whale_ray.sweep.report.tables.headline import ABSENT, is_number

_MAX_DIFFERENCES, _MAX_PAIRS = 40, 3


@dataclass(frozen=True)
class ImportanceTable:
    """Rows of importance.csv for the page.

    Attributes:
        differences: The largest differences of each axis.
        differences_left: Number of differences that are not shown.
        shares: Share of the variance that each axis explains.
        floors: Standard deviation over seeds.
        notes: Notes on the intervals.
        reach: Largest end of an interval, for drawing.
    """

    differences: tuple[Row, ...]
    differences_left: int
    shares: tuple[Row, ...]
    floors: tuple[Row, ...]
    notes: tuple[str, ...]
    reach: float


def importance_table(rows: Sequence[Row]) -> ImportanceTable:
    """Return the rows that the page shows."""
    every = [row for row in rows if row.how not in (SHARE, FLOOR)]
    axes = dict.fromkeys(row.axis for row in every)
    differences = [row for axis in axes for row in _largest_of(every, axis)][:_MAX_DIFFERENCES]
    ends = [abs(end) for row in differences for end in (row.value, row.low, row.high) if is_number(end)]
    return ImportanceTable(
        differences=tuple(differences),
        differences_left=len(every) - len(differences),
        shares=tuple(row for row in rows if row.how == SHARE),
        floors=tuple(row for row in rows if row.how == FLOOR),
        notes=tuple(dict.fromkeys(row.note for row in every)),
        reach=max(ends, default=0.0) or 1.0,
    )


def show_points(value: float, objective: str) -> str:
    """Return a difference of scores as text: percentage points for shares, else the number.

    Args:
        value: The difference.
        objective: Name of the score.
    """
    if not is_number(value):
        return ABSENT
    return f"{100 * value:+.1f}" if is_share(objective) else f"{value:+.3f}"


def _largest_of(rows: Sequence[Row], axis: str) -> list[Row]:
    own = [row for row in rows if row.axis == axis]
    return sorted(own, key=lambda row: -abs(row.value) if is_number(row.value) else 1.0)[:_MAX_PAIRS]
