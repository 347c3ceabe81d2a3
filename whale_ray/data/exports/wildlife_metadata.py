"""Export as metadata.csv of wildlife-datasets."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from whale_ray.atomic_files import write_atomically
from whale_ray.data.exports.exported_rows import ExportedRows, spaced_date
from whale_ray.data.formats.cell_values import is_unknown
from whale_ray.data.formats.data_layout import list_names
from whale_ray.data.formats.wildlife import METADATA
from whale_ray.data.image_io import Box

UNKNOWN = "unknown"


def write_wildlife(rows: ExportedRows, folder: Path) -> list[str]:
    """Write metadata.csv and return remarks.

    Args:
        rows: The rows.
        folder: Folder of the export.
    """
    records = rows.records()
    table = pd.DataFrame(
        {
            "image_id": [row["image"] for row in records],
            "identity": [row["individual"] or UNKNOWN for row in records],
            "path": [rows.path(row["file"]) for row in records],
            "bbox": [
                "" if box is None else str([box[0], box[1], box[2] - box[0], box[3] - box[1]]) for box in rows.boxes()
            ],
            "date": [spaced_date(row["date"]) for row in records],
            "orientation": [row["view"] for row in records],
            "species": [row["species"] for row in records],
            "encounter": [row["group"] for row in records],
        }
    )
    empty = [name for name in ("bbox", "date", "orientation", "species", "encounter") if (table[name] == "").all()]
    write_atomically(folder / METADATA, table.drop(columns=empty).to_csv(index=False))
    return ambiguous_names(rows)


def _cell_of_box(box: Box | None) -> str:
    return "" if box is None else str([box[0], box[1], box[2] - box[0], box[3] - box[1]])


def ambiguous_names(rows: ExportedRows) -> list[str]:
    """Return a remark about individuals whose name means "unknown" in the other format."""
    names = rows.table.loc[rows.table["individual"] != rows.unknown_label, "individual"].unique()
    found = sorted(name for name in names if is_unknown(name))
    return [f"individuals called {list_names(found)} are read as unknown there. Rename them first"] if found else []
