"""Format `wildlife`: metadata.csv of wildlife-datasets, with the columns path and identity.

The columns are described at https://wildlifedatasets.github.io/wildlife-datasets/dataframe/.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from whale_ray.data.delimited_table import DelimitedTable, read_table
from whale_ray.data.encounters.photo_dates import date_notes, parse_dates
from whale_ray.data.formats.cell_values import box_columns, is_missing, is_unknown, parse_bbox_cell
from whale_ray.data.formats.data_layout import AnimalTable, DataLayout, list_names
from whale_ray.data.image_io import Box
from whale_ray.errors import DataError

METADATA = "metadata.csv"
_REMEDY = "Name them with data.image_column and data.label_column"
# Columns by the column of the catalog, the preferred name first.
_DETAILS = {
    "group": ("encounter", "encounter_id"),
    "date": ("date", "datetime", "timestamp"),
    "place": (),
    "view": ("orientation", "viewpoint", "position"),
    "species": ("species",),
}


def recognize_wildlife(layout: DataLayout) -> str | None:
    """Return why the folder is a data set of wildlife-datasets; None if it is not."""
    path = _path(layout)
    if not path.is_file() or path.suffix.casefold() == ".json":
        return None
    try:
        columns = read_table(path, columns=("path", "identity")).columns
    except DataError:
        return None
    return f"{path} has the columns path and identity" if {"path", "identity"} <= set(columns) else None


def read_wildlife(layout: DataLayout) -> AnimalTable:
    """Return the rows of metadata.csv. The identity `unknown`, or none, is an unknown individual.

    Raises:
        DataError: If the table cannot be read or lacks a column.
    """
    path = _path(layout)
    columns = {
        "file": layout.chosen("image_column") or "path",
        "individual": layout.chosen("label_column") or "identity",
    }
    table = read_table(path, columns=columns.values())
    columns |= _detail_columns(layout, table)
    table.require(columns.values(), remedy=_REMEDY)
    rows = pd.DataFrame({name: table.column(column) for name, column in columns.items()})
    unknown = rows["individual"].map(is_unknown)
    rows.loc[unknown, "individual"] = layout.unknown_label
    notes = list(table.notes)
    for name in ("group", "place", "view", "species"):
        if name in rows:
            rows[name] = rows[name].where(~rows[name].map(is_missing) & ~rows[name].map(is_unknown), "")
    if "date" in rows:
        parsed = parse_dates(rows["date"].set_axis(table.lines))
        rows["date"] = parsed.dates.to_numpy()
        notes += date_notes(parsed, "line")
    faults: list[str] = []
    if "bbox" in table.columns:
        boxes, faults = _boxes(table)
        rows = rows.assign(**box_columns(boxes))
    return AnimalTable(
        rows.set_axis(table.lines),
        _image_folder(layout, rows["file"]),
        path,
        "line",
        f"{table.recognized}; columns {', '.join(columns.values())}",
        tuple(notes),
        tuple(faults),
    )


def _path(layout: DataLayout) -> Path:
    return layout.root / (layout.chosen("table") or METADATA)


def _detail_columns(layout: DataLayout, table: DelimitedTable) -> dict[str, str]:
    """Return the column of each detail that was chosen or is there."""
    found = {}
    for name, usual in _DETAILS.items():
        column = layout.chosen(f"{name}_column") or next((one for one in usual if one in table.columns), None)
        if column:
            found[name] = column
    return found


def _boxes(table: DelimitedTable) -> tuple[list[Box | None], list[str]]:
    boxes: list[Box | None] = []
    wrong = []
    for line, cell in zip(table.lines, table.column("bbox"), strict=True):
        try:
            boxes.append(parse_bbox_cell(cell))
        except ValueError as error:
            boxes.append(None)
            wrong.append(f"that of line {line} {error}")
    if not wrong:
        return boxes, []
    rule = "bbox must be empty or [x, y, width, height] with a positive size, in pixels"
    return boxes, [f"{rule}, but {list_names(wrong)}. Correct or empty the cells"]


def _image_folder(layout: DataLayout, files: pd.Series) -> Path:
    """Return the folder that the paths start from: `root`, or `root`/`image_folder` if the first file lies there."""
    below = layout.root / layout.image_folder
    first = next((file for file in files if file), "")
    return below if first and (below / first).is_file() and not (layout.root / first).is_file() else layout.root
