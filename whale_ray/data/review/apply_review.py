"""Applies the confirmed rows of a review to the training table.

Writes a new table beside the old one. All faults are found before anything is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from whale_ray.atomic_files import replaced_atomically
from whale_ray.csv_cells import from_cell
from whale_ray.data.catalog import Catalog, read_catalog
from whale_ray.data.delimited_table import DelimitedTable, read_table
from whale_ray.data.formats.animal_rows import BOX, animal_name
from whale_ray.data.formats.format_names import AUTO
from whale_ray.data.review.label_edits import LabelEdits, ReviewRow
from whale_ray.data.review.row_kinds import collect_edits
from whale_ray.errors import DataError

COLUMNS = (
    "kind",
    "image",
    "individual",
    "other_image",
    "other_individual",
    "suggested",
    "confidence",
    "parts",
    "confirm",
)
_NEEDED = ("kind", "image", "individual", "confirm")


@dataclass(frozen=True)
class ReviewResult:
    """The table that `apply_review` wrote.

    Attributes:
        path: Path of the new table.
        table: The same path below the root of the data set, as the setting data.table takes it.
        lines: The changes as lines of text.
        settings: Other settings of `data` that the new table needs: `view_column` or `species_column`, if it was added.
    """

    path: Path
    table: str
    lines: tuple[str, ...]
    settings: Mapping[str, str]


def apply_review(
    review: Path,
    *,
    root: Path,
    format_name: str = AUTO,
    table: str = "train.csv",
    image_folder: str = "train",
    image_column: str = "Image",
    label_column: str = "Id",
    group_column: str | None = None,
    view_column: str | None = None,
    species_column: str | None = None,
    unknown_label: str = "new_whale",
) -> ReviewResult:
    """Write the training table with the confirmed corrections as train.reviewed.csv (or .2, .3 ...) beside it.

    The column `confirm` is `yes`, `no`, empty (undecided) or the name of an individual. `yes` means the following per
    kind; a name means the same with that name:

    - mislabelled, recognised: the photograph gets the suggested individual.
    - new_individual: both photographs get the suggested individual.
    - same_individual: both individuals get the suggested name everywhere.
    - near_identical: `image` is removed and `other_image` stays.
    - confirmed: the photograph, which lies in `image_folder` and is not in the table, is appended. With a box in the
      column `box` (`x0,y0,x1,y1`) it is the animal in the box; a table without the columns x0, y0, x1, y1 gets them.
      The columns `view` and `species` are written likewise.

    All other rows and columns keep their content and order; so does the separator, unless it is a space.

    Args:
        review: The review table.
        root: Folder of the data set.
        format_name: Format of the data set; corrections are written in the format `kaggle` only.
        table: File name of the training table below `root`.
        image_folder: Folder of the image files below `root`.
        image_column: Column of file names.
        label_column: Column of individuals.
        group_column: Column of encounters, if any.
        view_column: Column of views; None writes those of added photographs into a column `view`.
        species_column: Column of species; None writes those of added photographs into a column `species`.
        unknown_label: Label of unknown individuals.

    Raises:
        DataError: With every row that cannot be applied, by line number; if no row is confirmed; or if the data set has
            another format.
    """
    rows = read_review_rows(review)
    read = partial(
        read_catalog,
        root,
        image_folder=image_folder,
        image_column=image_column,
        label_column=label_column,
        group_column=group_column,
        view_column=view_column,
        species_column=species_column,
        unknown_label=unknown_label,
    )
    catalog = read(table=table, format_name=format_name)
    _require_kaggle(catalog)
    labels = dict(zip(catalog.table["image"], catalog.table["individual"], strict=True))
    boxes = {
        animal_name(file, box): labels[image]
        for image, file in zip(catalog.table["image"], catalog.table["file"], strict=True)
        if (box := catalog.box(image)) is not None
    }
    decisions = collect_edits(rows, labels, folder=catalog.folder, unknown_label=unknown_label, boxes=boxes)
    if decisions.faults:
        faults = "\n".join(f"  {fault}" for fault in decisions.faults)
        raise DataError(f"{review} cannot be applied, nothing was written:\n{faults}")
    if not decisions.confirmed:
        raise DataError(
            f"at least one row of {review} must be confirmed, but {decisions.counted()}. "
            "Write yes, no or an individual's name into the column confirm"
        )
    old = read_table(root / table, columns=(image_column, label_column))
    path = _next_free_path(root / table)
    with replaced_atomically(path) as draft:
        details = {"view": view_column or "view", "species": species_column or "species"}
        _write_edited(old, draft, decisions, image_column=image_column, label_column=label_column, details=details)
        read(table=str(Path(table).with_name(draft.name)), format_name="kaggle")
    written = {key for cells in decisions.added_cells.values() for key in cells}
    chosen = {"view": view_column, "species": species_column}
    settings = {f"{key}_column": key for key, column in chosen.items() if key in written and column is None}
    return ReviewResult(path, str(Path(table).with_name(path.name)), tuple(decisions.lines()), settings)


def _require_kaggle(catalog: Catalog) -> None:
    if catalog.recognition is not None and catalog.recognition.format_name != "kaggle":
        raise DataError(
            f"corrections are written into a table of the format kaggle, but {catalog.recognition.source} is of the "
            f"format {catalog.recognition.format_name}. Correct the labels there, following the rows of the review"
        )


def read_review_rows(path: Path) -> list[ReviewRow]:
    """Return the rows of a review table, with the text that was there before it was protected for spreadsheets.

    Raises:
        DataError: If the file is no table, or lacks a column that every review has.
    """
    table = read_table(path, columns=_NEEDED, fill_short_rows=True)  # Excel leaves out empty cells at the end of rows
    table.require(_NEEDED, remedy="Take the review.csv of a run folder")
    return [
        ReviewRow(line, {name: from_cell(cell) for name, cell in zip(table.columns, cells, strict=True)})
        for line, cells in zip(table.lines.tolist(), table.cells.to_numpy().tolist(), strict=True)
    ]


def _write_edited(
    old: DelimitedTable,
    path: Path,
    edits: LabelEdits,
    *,
    image_column: str,
    label_column: str,
    details: Mapping[str, str],
) -> None:
    """Write the table with its edits, with the separator of the old one; a program that needs a mark gets UTF-8's."""
    names = [f"{place} {name}" for place, name in enumerate(old.columns)]  # a name may occur twice
    image, label = (names[old.columns.index(column)] for column in (image_column, label_column))
    cells, columns = old.cells.set_axis(names, axis=1), list(old.columns)
    written = {key for row in edits.added_cells.values() for key in row}
    places = {key: details.get(key, key) for key in (*BOX, *details) if key in written}
    for column in [column for column in places.values() if column not in columns]:
        cells[f"{len(columns)} {column}"] = ""
        columns.append(column)
    numbered = {key: f"{columns.index(column)} {column}" for key, column in places.items()}
    new = edits.applied(cells, image_column=image, label_column=label, columns=numbered)
    separator = old.separator if old.separator != " " else ","
    encoding = "utf-8" if old.encoding == "utf-8" else "utf-8-sig"
    new.set_axis(columns, axis=1).to_csv(path, sep=separator, index=False, encoding=encoding)


def _next_free_path(table: Path) -> Path:
    """Return the first of train.reviewed.csv, train.reviewed.2.csv ... that does not exist."""
    stem = table.stem.partition(".reviewed")[0]
    number, path = 1, table.with_name(f"{stem}.reviewed{table.suffix}")
    while path.exists():
        number += 1
        path = table.with_name(f"{stem}.reviewed.{number}{table.suffix}")
    return path
