"""What a person confirmed of a review, as a new table beside the old one; nothing that was there is changed.

Knows the review's CSV and the table; opens no picture. Every fault is found before anything is written.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from whale_ray.atomic_files import replacing
from whale_ray.csv_cells import from_cell
from whale_ray.data.catalog import read_catalog
from whale_ray.data.review.label_edits import Row
from whale_ray.data.review.row_kinds import decide
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
class Reviewed:
    """The new table: its path, the same below the data's root, and what was changed in lines for a person."""

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
) -> Reviewed:
    """Writes `root`/`table` with what `review` confirms as train.reviewed.csv (or .2, .3 …) beside it.

    `confirm` of a row is `yes`, `no`, empty (undecided) or an individual's name. By kind, `yes` does this, and a name
    the same with that name:
    mislabelled, recognised: the photograph gets the suggested individual.
    new_individual: both photographs do. same_individual: both individuals get the suggested name, everywhere.
    near_identical: `image` is left out, `other_image` stays.
    confirmed: the photograph, which is in `image_folder` and not in the table, is added at its end.
    All other rows and columns stay as they are, in their order.

    Raises: DataError with every row that cannot be done, by its line; where nothing is confirmed.
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
    decisions = decide(rows, labels, folder=catalog.folder, unknown_label=unknown_label)
    if decisions.faults:
        faults = "\n".join(f"  {fault}" for fault in decisions.faults)
        raise DataError(f"{review} cannot be applied, nothing was written:\n{faults}")
    if not decisions.confirmed:
        raise DataError(
            f"at least one row of {review} must be confirmed, but {decisions.counted()}. "
            "Write yes, no or an individual's name into the column confirm"
        )
    old = pd.read_csv(root / table, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    path = _free_name(root / table)
    with replacing(path) as draft:
        new = decisions.applied(old, image_column=image_column, label_column=label_column)
        new.to_csv(draft, index=False)
        read(table=str(draft.relative_to(root)))
    return Reviewed(path, str(path.relative_to(root)), tuple(decisions.lines()))


def delimiter_of(path: Path) -> str:
    """A comma, or the semicolon that spreadsheets write where the comma is decimal."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        head = stream.readline()
    return ";" if head.count(";") > head.count(",") else ","


def _read_review(path: Path) -> list[Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, delimiter=delimiter_of(path), strict=True)
            rows = [
                Row(reader.line_num, {name: from_cell((cell or "").strip()) for name, cell in row.items() if name})
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


def _free_name(table: Path) -> Path:
    """The first of train.reviewed.csv, train.reviewed.2.csv … that is not there."""
    stem = table.stem.partition(".reviewed")[0]
    number, path = 1, table.with_name(f"{stem}.reviewed{table.suffix}")
    while path.exists():
        number += 1
        path = table.with_name(f"{stem}.reviewed.{number}{table.suffix}")
    return path
