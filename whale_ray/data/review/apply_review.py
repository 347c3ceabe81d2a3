"""Applies the confirmed rows of a review to the training table.

Writes a new table beside the old one. All faults are found before anything is written.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from whale_ray.atomic_files import replaced_atomically
from whale_ray.csv_cells import from_cell
from whale_ray.data.catalog import read_catalog
from whale_ray.data.review.label_edits import ReviewRow
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
        table: The same path relative to the root of the data set.
        lines: The changes as lines of text.
    """

    path: Path
    table: str
    lines: tuple[str, ...]


def apply_review(
    review: Path,
    *,
    root: Path,
    table: str = "train.csv",
    image_folder: str = "train",
    image_column: str = "Image",
    label_column: str = "Id",
    group_column: str | None = None,
    unknown_label: str = "new_whale",
) -> ReviewResult:
    """Write the training table with the confirmed corrections as train.reviewed.csv (or .2, .3 ...) beside it.

    The column `confirm` is `yes`, `no`, empty (undecided) or the name of an individual. `yes` means the following per
    kind; a name means the same with that name:

    - mislabelled, recognised: the photograph gets the suggested individual.
    - new_individual: both photographs get the suggested individual.
    - same_individual: both individuals get the suggested name everywhere.
    - near_identical: `image` is removed and `other_image` stays.
    - confirmed: the photograph, which lies in `image_folder` and is not in the table, is appended.

    All other rows and columns keep their content and order.

    Args:
        review: The review table (CSV).
        root: Folder of the data set.
        table: File name of the training table below `root`.
        image_folder: Folder of the image files below `root`.
        image_column: Column of file names.
        label_column: Column of individuals.
        group_column: Column of encounters, if any.
        unknown_label: Label of unknown individuals.

    Raises:
        DataError: With every row that cannot be applied, by line number; or if no row is confirmed.
    """
    rows = _read_review(review)
    read = partial(
        read_catalog,
        root,
        image_folder=image_folder,
        image_column=image_column,
        label_column=label_column,
        group_column=group_column,
        unknown_label=unknown_label,
    )
    catalog = read(table=table)
    labels = dict(zip(catalog.table["image"], catalog.table["individual"], strict=True))
    decisions = collect_edits(rows, labels, folder=catalog.folder, unknown_label=unknown_label)
    if decisions.faults:
        faults = "\n".join(f"  {fault}" for fault in decisions.faults)
        raise DataError(f"{review} cannot be applied, nothing was written:\n{faults}")
    if not decisions.confirmed:
        raise DataError(
            f"at least one row of {review} must be confirmed, but {decisions.counted()}. "
            "Write yes, no or an individual's name into the column confirm"
        )
    old = pd.read_csv(root / table, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    path = _next_free_path(root / table)
    with replaced_atomically(path) as draft:
        new = decisions.applied(old, image_column=image_column, label_column=label_column)
        new.to_csv(draft, index=False)
        read(table=str(draft.relative_to(root)))
    return ReviewResult(path, str(path.relative_to(root)), tuple(decisions.lines()))


def delimiter_of(path: Path) -> str:
    """Return the delimiter of a CSV file: a comma, or a semicolon as spreadsheets with decimal commas write it."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        head = stream.readline()
    return ";" if head.count(";") > head.count(",") else ","


def _read_review(path: Path) -> list[ReviewRow]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, delimiter=delimiter_of(path), strict=True)
            rows = [
                ReviewRow(
                    reader.line_num, {name: from_cell((cell or "").strip()) for name, cell in row.items() if name}
                )
                for row in reader
            ]
            columns = list(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error, AttributeError) as error:
        raise DataError(f"a review must be a CSV table in UTF-8, but {path}: {error}. Save it as CSV") from None
    if absent := [column for column in _NEEDED if column not in columns]:
        raise DataError(
            f"a review must have the columns {', '.join(_NEEDED)}, but {path} lacks {', '.join(absent)}. "
            "Take the review.csv of a run folder"
        )
    return rows


def _next_free_path(table: Path) -> Path:
    """Return the first of train.reviewed.csv, train.reviewed.2.csv ... that does not exist."""
    stem = table.stem.partition(".reviewed")[0]
    number, path = 1, table.with_name(f"{stem}.reviewed{table.suffix}")
    while path.exists():
        number += 1
        path = table.with_name(f"{stem}.reviewed.{number}{table.suffix}")
    return path
