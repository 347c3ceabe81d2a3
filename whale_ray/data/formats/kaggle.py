"""Format `kaggle`: a table of file names and individuals beside a folder of photographs."""

from __future__ import annotations

import shlex
from collections.abc import Container, Iterator
from pathlib import Path

import pandas as pd

from whale_ray.data.decoding.find_image_files import holds_image
from whale_ray.data.delimited_table import DelimitedTable, read_table
from whale_ray.data.encounters.photo_dates import date_notes, parse_dates
from whale_ray.data.formats.animal_rows import BOX, DETAILS
from whale_ray.data.formats.cell_values import is_missing
from whale_ray.data.formats.data_layout import AnimalTable, DataLayout, list_names
from whale_ray.errors import DataError

_REMEDY = "Name them with data.image_column, data.label_column, data.group_column"
_DETAILS = ("group", *DETAILS)
_NOT_TRAINING = ("test",)


def recognize_kaggle(layout: DataLayout) -> str | None:
    """Return why the folder has the Kaggle layout; None if it has not."""
    path = layout.root / layout.table
    if not path.is_file() or path.suffix.casefold() == ".json":
        return None
    if layout.chosen("table"):
        columns = set(read_table(path, columns=(layout.image_column, layout.label_column)).columns)
        if layout.image_column not in columns and {"path", "identity"} <= columns:
            return None
    return f"{path} is there"


def read_kaggle(layout: DataLayout) -> AnimalTable:
    """Return the rows of a table in the Kaggle layout. Optional columns x0, y0, x1, y1 are the box in pixels.

    Raises:
        DataError: If the table or the image folder is missing, or the table cannot be read.
    """
    path, folder = layout.root / layout.table, layout.root / layout.image_folder
    require_kaggle_layout(layout)
    columns = {"file": layout.image_column, "individual": layout.label_column}
    columns |= {name: column for name in _DETAILS if (column := layout.chosen(f"{name}_column")) is not None}
    table = read_table(path, columns=columns.values())
    table.require(columns.values(), remedy=_REMEDY)
    rows = pd.DataFrame({name: table.column(column) for name, column in columns.items()})
    notes = list(table.notes)
    if "date" in rows:
        parsed = parse_dates(rows["date"].set_axis(table.lines))
        rows["date"] = parsed.dates.to_numpy()
        notes += date_notes(parsed, "line")
    faults: list[str] = []
    if set(BOX) <= set(table.columns):
        sides, faults = box_sides(table, rows["file"])
        rows = rows.join(sides)
    return AnimalTable(
        rows.set_axis(table.lines),
        folder,
        path,
        "line",
        f"{table.recognized}; columns {', '.join(columns.values())}",
        tuple(notes),
        tuple(faults),
    )


def box_sides(
    table: DelimitedTable, files: pd.Series, listed: Container[str] | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """Return the columns x0, y0, x1, y1 of a table, NaN in rows without a box, and a fault for boxes that are none.

    Args:
        table: A table with these columns; four empty cells are no box.
        files: Image file of each row.
        listed: Files whose boxes count; None for all.
    """
    sides = pd.DataFrame({side: table.numbers(side) for side in BOX})
    given = pd.DataFrame({side: ~table.column(side).map(is_missing) for side in BOX})  # R writes NA
    is_box = sides.notna().all(axis=1) & (sides["x0"] < sides["x1"]) & (sides["y0"] < sides["y1"])
    counts = files.map(lambda file: listed is None or file in listed)
    rows = zip(files, table.lines, given.any(axis=1) & ~is_box & counts, strict=True)
    wrong = [f"{file} (line {line})" for file, line, is_wrong in rows if is_wrong]
    if not wrong:
        return sides, []
    rule = "`x0 < x1` and `y0 < y1` must hold for every box, in pixels"
    return sides, [f"{rule}, but they do not for {list_names(wrong)}. Correct them, or empty all four cells"]


def _absence(path: Path) -> str:
    if not path.exists():
        return f"{path} is a link that leads nowhere" if path.is_symlink() else f"{path} is not there"
    return f"{path} is a folder" if path.is_dir() else f"{path} is a file"


def _image_folders(root: Path) -> Iterator[Path]:
    """Yield the folders below `root` that hold an image."""
    children = sorted(root.iterdir()) if root.is_dir() else []
    return (child for child in children if child.is_dir() and child.name not in _NOT_TRAINING and holds_image(child))


def _set_folder(name: str) -> str:
    return f"--set {shlex.quote(f'data.image_folder={name}')}"


def require_kaggle_layout(layout: DataLayout, looked_for: str = "") -> None:
    """Check that table and image folder of the Kaggle layout exist.

    Args:
        layout: The data set.
        looked_for: Sentence about the other formats that were looked for.

    Raises:
        DataError: With what is missing and how it must lie.
    """
    table, root = layout.root / layout.table, layout.root
    folder = root / layout.image_folder if layout.check_files else root
    missing = [
        *([] if table.is_file() else [_absence(table)]),
        *([] if folder.is_dir() else [_absence(folder)]),
    ]
    if missing:
        others = [] if folder.is_dir() else [child.name for child in _image_folders(root)]
        hint = f" But {root / others[0]} holds photographs: add {_set_folder(others[0])}." if others else ""
        raise DataError(
            f"the photographs must lie in {root}, but {' and '.join(missing)}.{hint}{looked_for}\n"
            f"  How it must lie: {table} with the columns {layout.image_column},{layout.label_column} and the pictures "
            f"in {root / layout.image_folder}/; another place is named with --data DIR.\n"
            "  Where to get it: https://www.kaggle.com/competitions/humpback-whale-identification/data "
            "(or your own photographs in that form, or in another one: data.format).\n"
            "  Meanwhile: `make sweep` draws synthetic flukes and runs a sweep on them; "
            "`whale-ray synth synthetic` only draws them, for --data synthetic."
        )
