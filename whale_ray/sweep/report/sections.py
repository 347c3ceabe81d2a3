"""How far the best trial's answers can be trusted: known against new, probabilities, and whom it serves badly.

Reads a finished trial's result and queries.parquet; knows no page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from whale_ray.retrieval.evaluation.calibration import reliability
from whale_ray.sweep.analysis.importance import FLOOR, SHARE, Row
from whale_ray.sweep.report.curves import Plot, is_share
from whale_ray.sweep.report.headline import ABSENT, is_number
from whale_ray.sweep.report.svg import Curve, Scale, plot_curves
from whale_ray.sweep.run_folder.records import Record

_MEANINGS = {
    "auroc": "how often a known query's first cosine is above a new one's (0.5 is chance)",
    "baks": "known individuals' share of right answers, each individual counting once",
    "baus": "new individuals' share called new, each counting once",
    "brier/match": "mean squared fault of the probability that the first answer is right (0 is perfect)",
    "brier/new": "mean squared fault of the probability that the animal is new",
}
_LOOKS = {"match_probability": ("c0", "the first answer is right"), "new_probability": ("c1", "the animal is new")}


@dataclass(frozen=True)
class Trust:
    """What the page shows. scores: rows of name, meaning, value, low, high, trivial. by_images: rows of a breakdown."""

    scores: tuple[dict[str, Any], ...]
    by_images: tuple[dict[str, Any], ...]
    reliability: Plot | None


def judge_trust(record: Record) -> Trust:
    """The figures of a finished trial; those that it does not have are left out."""
    result = record.result
    rows = [
        {
            "name": name,
            "meaning": meaning,
            "value": result[name],
            "low": result.get(f"{name}_low"),
            "high": result.get(f"{name}_high"),
            "trivial": result.get(f"trivial/{name}"),
        }
        for name, meaning in _MEANINGS.items()
        if is_number(result.get(name))
    ]
    by_images = [row for row in result.get("by_images") or () if row["queries"]]
    return Trust(tuple(rows), tuple(by_images), _reliability(record))


def _reliability(record: Record) -> Plot | None:
    path = record.folder / "queries.parquet"
    queries = pd.read_parquet(path) if path.exists() else pd.DataFrame()
    if not {*_LOOKS} <= {*queries}:
        return None
    outcomes = {"match_probability": queries["rank"] == 1, "new_probability": ~queries["known"].astype(bool)}
    curves = [
        Curve(said, look, tuple((one["said"], one["happened"]) for one in points))
        for name, (look, said) in _LOOKS.items()
        if (points := reliability(queries[name].to_numpy(float), outcomes[name].to_numpy(dtype=np.float64)))
    ]
    if not curves:
        return None
    diagonal = Curve("perfect: it happens as often as is said", "limit", ((0.0, 0.0), (1.0, 1.0)))
    x, y = Scale(0, 1, "probability said", percent=True), Scale(0, 1, "share that happened", percent=True)
    alt = "Reliability curves: " + "; ".join(
        f"{curve.name}: " + ", ".join(f"said {x.text(at)}, happened {y.text(value)}" for at, value in curve.points)
        for curve in curves
    )
    svg = plot_curves([*curves, diagonal], x=x, y=y, alt=alt)
    legend = tuple((curve.look, curve.name) for curve in [*curves, diagonal])
    note = "Each mark is a group of queries by rising probability; the probabilities were learned on other queries."
    return Plot("Probabilities", svg, legend, note)


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
