"""Retrieval settings of the best trial as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from whale_ray.retrieval.search.retrieval_options import describe_setting
from whale_ray.sweep.run_folder.records import Record

_MAX_SETTINGS = 10


@dataclass(frozen=True)
class SettingRow:
    """One retrieval setting of the best trial.

    Attributes:
        scores: Row of retrieval.csv.
        description: The setting in few words.
        is_chosen: The bundle uses this setting.
    """

    scores: dict[str, Any]
    description: str
    is_chosen: bool


def best_settings(best: Record | None, objective: str) -> tuple[SettingRow, ...]:
    """Return the best retrieval settings of a trial, best first.

    Args:
        best: The trial; None for no rows.
        objective: Name of the score that orders them.
    """
    if best is None or not (path := best.folder / "retrieval.csv").exists():
        return ()
    table = pd.read_csv(path)
    rows = table.sort_values(objective, ascending=False, kind="stable").head(_MAX_SETTINGS).to_dict("records")
    chosen = describe_setting(best.result)
    named = [{str(name): value for name, value in row.items()} for row in rows]
    return tuple(SettingRow(row, words := describe_setting(row), words == chosen) for row in named)
