"""Summary of a data set as it was understood: format, rows, individuals, boxes, dates, views and species."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from whale_ray.data.formats.animal_rows import BOX

if TYPE_CHECKING:
    from whale_ray.data.catalog import Catalog

_MOST_VALUES = 6


def understood(catalog: Catalog) -> dict[str, Any]:
    """Return how a data set was understood, by the words of the audit's first table."""
    table, how = catalog.table, catalog.recognition
    named = table[table["individual"] != catalog.unknown_label]
    boxed = int(table[BOX[0]].notna().sum())
    dates = sorted(date for date in table["date"] if date)
    return {
        "format": how.format_name if how else "",
        "because": how.reason if how else "",
        "read from": str(how.source) + (f" ({how.recognized})" if how.recognized else "") if how else "",
        "photographs in": str(catalog.folder),
        "rows": len(table),
        "photographs": int(table["file"].nunique()),
        "individuals": int(named["individual"].nunique()),
        "unknown": f"{len(table) - len(named)} rows, labelled {catalog.unknown_label}",
        "encounters": int(table.loc[table["group"] != "", "group"].nunique()),
        "boxes": f"{boxed} rows" if boxed else "none",
        "dates": f"{len(dates)} rows, {dates[0][:10]} to {dates[-1][:10]}" if dates else "none",
        "views": _values(table["view"]),
        "species": _values(table["species"]),
        "notes": list(how.notes) if how else [],
    }


def _values(column: pd.Series) -> str:
    counts = column[column != ""].value_counts()
    if counts.empty:
        return "none"
    shown = ", ".join(f"{value} {count}" for value, count in counts.head(_MOST_VALUES).items())
    return shown + (f" and {len(counts) - _MOST_VALUES} more" if len(counts) > _MOST_VALUES else "")


def understanding_lines(found: Mapping[str, Any]) -> list[str]:
    """Return the summary as lines of text: a table of two columns, then the notes."""
    rows = {key: value for key, value in found.items() if key != "notes"}
    width = max(map(len, rows))
    return [*(f"{key:<{width}}  {value}" for key, value in rows.items()), *(f"note: {note}" for note in found["notes"])]
