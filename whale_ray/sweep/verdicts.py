"""Importance as the page shows it: the largest differences of each axis, shares, the noise floor.

Knows rows of importance.csv; judges nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from whale_ray.sweep.headline import ABSENT, is_number
from whale_ray.sweep.importance import FLOOR, SHARE, Row
from whale_ray.sweep.plots import is_share

_DIFFERENCES_SHOWN, _PAIRS_SHOWN = 40, 3


def show_importance(rows: Sequence[Row], objective: str) -> dict[str, Any]:
    """Differences by axis, shares, and the noise floor; `reach` is the largest end of an interval, for drawing."""
    every = [row for row in rows if row.how not in (SHARE, FLOOR)]
    differences = [row for axis in dict.fromkeys(row.axis for row in every) for row in _telling(every, axis)]
    ends = [abs(end) for row in differences for end in (row.value, row.low, row.high) if is_number(end)]
    return {
        "differences": differences[:_DIFFERENCES_SHOWN],
        "differences_left": len(every) - len(differences[:_DIFFERENCES_SHOWN]),
        "shares": [row for row in rows if row.how == SHARE],
        "floors": [row for row in rows if row.how == FLOOR],
        "notes": list(dict.fromkeys(row.note for row in every)),
        "reach": max(ends, default=0.0) or 1.0,
        "points": lambda value: _points(value, objective),
    }


def _telling(rows: Sequence[Row], axis: str) -> list[Row]:
    """The largest differences of an axis, a few of them."""
    own = [row for row in rows if row.axis == axis]
    return sorted(own, key=lambda row: -abs(row.value) if is_number(row.value) else 1.0)[:_PAIRS_SHOWN]


def _points(value: float, objective: str) -> str:
    """A difference of scores: of a recall in percentage points."""
    if not is_number(value):
        return ABSENT
    return f"{100 * value:+.1f}" if is_share(objective) else f"{value:+.3f}"
