"""Input and output of the format readers: where a data set lies, and the rows that were read from it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import pandas as pd


@dataclass(frozen=True)
class DataLayout:
    """Folder of a data set and the names inside it.

    Attributes:
        root: Folder of the data set.
        table: File name of the table below `root`.
        image_folder: Folder of the image files below `root`.
        image_column: Column of file names.
        label_column: Column of individuals.
        group_column: Column of encounters or days; None if not chosen.
        date_column: Column of dates; None if not chosen.
        place_column: Column of places; None if not chosen.
        view_column: Column of views; None if not chosen.
        species_column: Column of species; None if not chosen.
        unknown_label: Label of animals whose individual is unknown.
        check_files: Require the image folder to exist.
    """

    root: Path
    table: str = "train.csv"
    image_folder: str = "train"
    image_column: str = "Image"
    label_column: str = "Id"
    group_column: str | None = None
    date_column: str | None = None
    place_column: str | None = None
    view_column: str | None = None
    species_column: str | None = None
    unknown_label: str = "new_whale"
    check_files: bool = True

    def chosen(self, name: str) -> str | None:
        """Return the value of a field if it differs from its default, which is that of the Kaggle layout."""
        default = next(field.default for field in fields(self) if field.name == name)
        value = getattr(self, name)
        return None if value == default else value


@dataclass(frozen=True)
class AnimalTable:
    """Rows that a reader found.

    Attributes:
        rows: Columns file, individual and optionally others of `animal_rows.COLUMNS`. The index is the position of each
            row in the source, such as its line.
        folder: Folder of the image files.
        source: The file, or the folder, that was read.
        unit: Word for a position: `line`, `annotation` or `file`.
        recognized: How the source was read, such as its separator and encoding; "" if there is nothing to choose.
        notes: Remarks for the reader of the audit, one sentence each.
        faults: Faults of the source.
    """

    rows: pd.DataFrame
    folder: Path
    source: Path
    unit: str = "line"
    recognized: str = ""
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()


_MAX_LISTED = 5


def list_names(names: list[str]) -> str:
    """Return up to five names, and the number of the others."""
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more
