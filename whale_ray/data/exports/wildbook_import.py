"""Export as a spreadsheet for Wildbook's bulk import, one encounter for each row."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from whale_ray.atomic_files import write_atomically
from whale_ray.csv_cells import as_cell
from whale_ray.data.exports.exported_rows import ExportedRows

SHEET = "wildbook_import.csv"
_DATE_PARTS = ("year", "month", "day", "hour", "minutes")


def write_wildbook(rows: ExportedRows, folder: Path) -> list[str]:
    """Write wildbook_import.csv and return remarks.

    Wildbook matches photographs by their file name alone: files of one name in several folders are refused by it.

    Args:
        rows: The rows.
        folder: Folder of the export.
    """
    records = rows.records()
    boxes = rows.boxes()
    sheet = pd.DataFrame(
        {
            "Encounter.mediaAsset0": [as_cell(row["file"].rsplit("/", 1)[-1]) for row in records],
            "Encounter.individualID": [as_cell(row["individual"]) for row in records],
            "Encounter.genus": [as_cell(row["species"].partition(" ")[0]) for row in records],
            "Encounter.specificEpithet": [as_cell(row["species"].partition(" ")[2]) for row in records],
            **{f"Encounter.{part}": [_date_part(row["date"], part) for row in records] for part in _DATE_PARTS},
            "Encounter.locationID": "",
            "Occurrence.occurrenceID": [as_cell(row["group"]) for row in records],
            "Encounter.occurrenceRemarks": [
                as_cell("; ".join(_remarks(row["view"], box))) for row, box in zip(records, boxes, strict=True)
            ],
        }
    )
    write_atomically(folder / SHEET, sheet.to_csv(index=False))
    return _missing(sheet, rows.table["file"])


def _date_part(date: str, part: str) -> str:
    """Return one part of an ISO 8601 date, "" if the date does not say it."""
    first = {"year": 0, "month": 5, "day": 8, "hour": 11, "minutes": 14}[part]
    text = date[first : first + (4 if part == "year" else 2)]
    return str(int(text)) if text.isdecimal() else ""


def _remarks(view: str, box: Iterable[float] | None) -> Iterable[str]:
    if view:
        yield f"view {view}"
    if box is not None:
        yield f"box {','.join(f'{side:.6g}' for side in box)}"


def _missing(sheet: pd.DataFrame, files: pd.Series) -> list[str]:
    remarks = ["complete Encounter.locationID, which Wildbook requires"]
    for column, noun in (("Encounter.genus", "species"), ("Encounter.year", "date")):
        if count := int((sheet[column] == "").sum()):
            remarks.append(f"{count} rows have no {noun}, which Wildbook requires")
    names = files.drop_duplicates().str.rsplit("/", n=1).str[-1]
    if twice := int(names.duplicated().sum()):
        remarks.append(f"{twice} files have the name of another file in another folder. Rename them before the import")
    return remarks
