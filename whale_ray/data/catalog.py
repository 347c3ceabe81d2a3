"""Dataset index: image file, box, individual and encounter of every animal in the photographs.

Reads the training table and opens no image. All faults of the table are reported in one message.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import pandas as pd
from PIL import Image

from whale_ray.data.delimited_table import read_table
from whale_ray.data.formats.animal_rows import BOX, complete_rows, row_ids
from whale_ray.data.image_io import MAX_BYTES, Box, decode_image
from whale_ray.errors import DataError
from whale_ray.file_errors import is_inside

_MAX_LISTED = 5


@dataclass(frozen=True)
class Catalog:
    """The animals in the photographs of a data set.

    Attributes:
        table: One row per animal in a photograph, with the columns of `animal_rows.COLUMNS`. `image` identifies the
            row: the file name where the photograph has one row, otherwise the file name with the box.
        folder: Folder of the image files.
        unknown_label: Label of animals whose individual is unknown.
        image_bytes: Largest accepted file in bytes.
    """

    table: pd.DataFrame
    folder: Path
    unknown_label: str
    image_bytes: int = MAX_BYTES

    def __post_init__(self) -> None:
        """Add the columns that the table lacks, with their neutral values."""
        object.__setattr__(self, "table", complete_rows(self.table))

    @cached_property
    def _places(self) -> dict[str, tuple[str, Box | None]]:
        columns = [self.table[name].tolist() for name in ("image", "file", *BOX)]
        return {
            image: (file, None if pd.isna(x0) else (float(x0), float(y0), float(x1), float(y1)))
            for image, file, x0, y0, x1, y1 in zip(*columns, strict=True)
        }

    @property
    def has_boxes(self) -> bool:
        """True if any row has a box."""
        return bool(self.table[BOX[0]].notna().any())

    def path(self, image: str) -> Path:
        """Return the path of the image file of a row."""
        return self.folder / self._places.get(image, (image, None))[0]

    def box(self, image: str) -> Box | None:
        """Return the box of a row in pixels of the upright image; None for the whole image."""
        return self._places.get(image, (image, None))[1]

    def decode(self, image: str) -> Image.Image:
        """Return the whole upright photograph of a row.

        Raises:
            ImageError: If the file is too large or cannot be decoded.
        """
        return decode_image(self.path(image), max_bytes=self.image_bytes)


def read_catalog(
    root: Path,
    *,
    table: str = "train.csv",
    image_folder: str = "train",
    image_column: str = "Image",
    label_column: str = "Id",
    group_column: str | None = None,
    boxes: Path | None = None,
    unknown_label: str = "new_whale",
    image_bytes: int = MAX_BYTES,
    check_files: bool = True,
) -> Catalog:
    """Read the training table of a data set.

    Args:
        root: Folder of the data set.
        table: File name of the table below `root`.
        image_folder: Folder of the image files below `root`.
        image_column: Column of file names.
        label_column: Column of individuals.
        group_column: Column of encounters or days; None if there is no such column.
        boxes: CSV file with the columns Image, x0, y0, x1, y1 in pixels; images are cropped to their box.
        unknown_label: Label of photographs whose individual is unknown.
        image_bytes: Largest accepted image file in bytes.
        check_files: Require the image folder to exist. False reads the table alone.

    Returns:
        The catalog, in the row order of the table.

    Raises:
        DataError: With every fault of the table, its columns and its boxes.
    """
    path, folder = root / table, root / image_folder
    _require_layout(root, path, folder if check_files else root)
    columns = {"file": image_column, "individual": label_column}
    if group_column is not None:
        columns["group"] = group_column
    read = _read_table(path, columns, optional=BOX if boxes is None else ())
    rows, faults = complete_rows(read), _box_faults(read, path)
    if boxes is not None:
        rows, faults = _with_boxes(rows, boxes)
    rows["image"] = row_ids(rows)
    faults = _table_faults(rows, unknown_label) + faults
    if check_files:
        faults += _link_faults(rows["file"].drop_duplicates(), folder)
    if faults:
        raise DataError(
            "\n".join([f"{path} cannot be used, nothing was started:", *(f"  {fault}" for fault in faults)])
        )
    return Catalog(rows.reset_index(drop=True), folder, unknown_label, image_bytes)


def _require_layout(root: Path, table: Path, folder: Path) -> None:
    missing = [path for path, there in ((table, table.is_file()), (folder, folder.is_dir())) if not there]
    if missing:
        raise DataError(
            f"the photographs must lie in {root}, but {' and '.join(map(str, missing))} "
            f"{'is' if len(missing) == 1 else 'are'} not there.\n"
            f"  How it must lie: {table} with the columns Image,Id and the pictures in {root}/train/; another place is "
            "named with --data DIR.\n"
            "  Where to get it: https://www.kaggle.com/competitions/humpback-whale-identification/data "
            "(or your own photographs in that form).\n"
            "  Meanwhile: `make sweep` draws synthetic flukes and runs a sweep on them; "
            "`whale-ray synth synthetic` only draws them, for --data synthetic."
        )


def _read_table(path: Path, columns: dict[str, str], *, optional: Iterable[str] = ()) -> pd.DataFrame:
    """Return the columns under their new names; the index is the line of each row in the file."""
    table = read_table(path, columns=columns.values())
    table.require(columns.values(), remedy="Name them with data.image_column, data.label_column, data.group_column")
    if set(optional) <= set(table.columns):
        columns = columns | {name: name for name in optional}
    return pd.DataFrame({name: table.column(column) for name, column in columns.items()}).set_axis(table.lines)


def _table_faults(rows: pd.DataFrame, unknown_label: str) -> list[str]:
    """Return the faults of the table itself."""
    image, file, individual = rows["image"], rows["file"], rows["individual"]
    faults = [
        *_fault_with_names(rows.index[file == ""], "a row must name its photograph, but {} {} does not", "line"),
        *_fault_with_names(rows.index[individual == ""], "a row must name its individual, but {} {} does not", "line"),
        *_fault_with_names(
            image[image.duplicated() & (file != "")],
            "a photograph has one row, or for each animal one with its own box (x0, y0, x1, y1), but {} {} has more",
            "photograph",
        ),
        *_fault_with_names(
            file[file.map(_leaves_folder)].drop_duplicates(),
            "a photograph lies inside the folder, but the path of {} {} leaves it",
            "photograph",
        ),
    ]
    counts = individual[individual != unknown_label].value_counts()
    if not faults and (counts.empty or counts.iloc[0] < 2):
        faults.append(
            "at least one individual must have two photographs, one to know it by and one to find, but none has. "
            "Add photographs, or look whether the label column is the right one"
        )
    return faults


def _fault_with_names(values: Iterable[object], message: str, noun: str) -> list[str]:
    shown = [str(value) for value in values]
    if not shown:
        return []
    more = f" and {len(shown) - _MAX_LISTED} more" if len(shown) > _MAX_LISTED else ""
    return [message.format(noun + ("s" if len(shown) > 1 else ""), ", ".join(shown[:_MAX_LISTED]) + more)]


def _leaves_folder(image: str) -> bool:
    path = PurePosixPath(image.replace("\\", "/"))
    has_drive = re.match(r"[A-Za-z]:/", str(path)) is not None  # other colons are part of the name
    return path.is_absolute() or ".." in path.parts or has_drive


def _link_faults(images: pd.Series, folder: Path) -> list[str]:
    """Return a fault for images that are links to a place outside the folder."""
    links = [image for image in images if not _leaves_folder(image) and not is_inside(folder / image, folder)]
    return _fault_with_names(links, "a photograph lies inside the folder, but {} {} links out of it", "photograph")


def _box_faults(table: pd.DataFrame, path: Path) -> list[str]:
    """Return a fault for boxes of the training table that are none; a row without any side has no box."""
    if BOX[0] not in table:
        return []
    given = (table[list(BOX)] != "").any(axis=1)
    wrong = given & _is_wrong(table[list(BOX)].apply(pd.to_numeric, errors="coerce"))
    return _fault_with_names(
        table.index[wrong],
        "`x0 < x1` and `y0 < y1` must hold for every box, but they do not for {} {} of " + str(path),
        "line",
    )


def _is_wrong(sides: pd.DataFrame) -> pd.Series:
    return sides[list(BOX)].isna().any(axis=1) | (sides["x0"] >= sides["x1"]) | (sides["y0"] >= sides["y1"])


def _with_boxes(rows: pd.DataFrame, path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows with their boxes, and the faults of the boxes."""
    table = _read_table(path, {"file": "Image", **{side: side for side in BOX}})
    table = table[table["file"].isin(rows["file"])]
    boxes = table[list(BOX)].apply(pd.to_numeric, errors="coerce").assign(file=table["file"])
    faults = _fault_with_names(
        boxes.loc[_is_wrong(boxes), "file"],
        "`x0 < x1` and `y0 < y1` must hold for every box, but they do not for {} {} in " + str(path),
        "photograph",
    )
    twice = boxes.loc[boxes["file"].duplicated(), "file"]
    faults += _fault_with_names(twice, "a photograph has one box, but {} {} has more in " + str(path), "photograph")
    if boxes.empty:
        faults.append(f"{path} must name photographs of the table, but none of its rows does")
    merged = rows.drop(columns=list(BOX)).merge(boxes.drop_duplicates("file"), on="file", how="left", sort=False)
    return complete_rows(merged).set_axis(rows.index), faults
