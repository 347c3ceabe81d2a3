"""Dataset index: image file, individual, encounter and box of every photograph.

Reads the training table and opens no image. All faults of the table are reported in one message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from whale_ray.data.delimited_table import read_table
from whale_ray.data.image_io import MAX_BYTES
from whale_ray.errors import DataError

BOX = ("x0", "y0", "x1", "y1")
_MAX_LISTED = 5


@dataclass(frozen=True)
class Catalog:
    """The photographs of a data set.

    Attributes:
        table: One row per photograph: `image` (file name below `folder`), `individual`, `group` (encounter, "" if
            unknown) and, with boxes, `x0`, `y0`, `x1`, `y1` in pixels of the image (NaN: the whole image).
        folder: Folder of the image files.
        unknown_label: Label of photographs whose individual is unknown.
        image_bytes: Largest accepted file in bytes.
    """

    table: pd.DataFrame
    folder: Path
    unknown_label: str
    image_bytes: int = MAX_BYTES

    def path(self, image: str) -> Path:
        """Return the path of an image file."""
        return self.folder / image


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
    columns = {"image": image_column, "individual": label_column}
    if group_column is not None:
        columns["group"] = group_column
    rows = _read_table(path, columns)
    if group_column is None:
        rows["group"] = ""
    faults = _table_faults(rows, unknown_label)
    if boxes is not None:
        rows, found = _with_boxes(rows, boxes)
        faults += found
    if check_files:
        faults += _link_faults(rows["image"], folder)
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


def _read_table(path: Path, columns: dict[str, str]) -> pd.DataFrame:
    """Return the columns under their new names; the index is the line of each row in the file."""
    table = read_table(path, columns=columns.values())
    table.require(columns.values(), remedy="Name them with data.image_column, data.label_column, data.group_column")
    return pd.DataFrame({name: table.column(column) for name, column in columns.items()}).set_axis(table.lines)


def _table_faults(rows: pd.DataFrame, unknown_label: str) -> list[str]:
    """Return the faults of the table itself."""
    image, individual = rows["image"], rows["individual"]
    faults = [
        *_fault_with_names(rows.index[image == ""], "a row must name its photograph, but {} {} does not", "line"),
        *_fault_with_names(rows.index[individual == ""], "a row must name its individual, but {} {} does not", "line"),
        *_fault_with_names(
            image[image.duplicated() & (image != "")], "a photograph has one row, but {} {} has more", "photograph"
        ),
        *_fault_with_names(
            image[image.map(_leaves_folder)],
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
    real = folder.resolve()
    inside: Callable[[Path], bool] = lambda path: path.resolve().is_relative_to(real)  # noqa: E731
    links = [image for image in images if not _leaves_folder(image) and not inside(folder / image)]
    return _fault_with_names(links, "a photograph lies inside the folder, but {} {} links out of it", "photograph")


def _with_boxes(rows: pd.DataFrame, path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows with their boxes, and the faults of the boxes."""
    table = _read_table(path, {"image": "Image", **{side: side for side in BOX}})
    table = table[table["image"].isin(rows["image"])]
    sides = table[list(BOX)].apply(pd.to_numeric, errors="coerce")
    boxes = sides.assign(image=table["image"])
    wrong = sides.isna().any(axis=1) | (sides["x0"] >= sides["x1"]) | (sides["y0"] >= sides["y1"])
    faults = _fault_with_names(
        boxes.loc[wrong, "image"],
        "`x0 < x1` and `y0 < y1` must hold for every box, but they do not for {} {} in " + str(path),
        "photograph",
    )
    twice = boxes.loc[boxes["image"].duplicated(), "image"]
    faults += _fault_with_names(twice, "a photograph has one box, but {} {} has more in " + str(path), "photograph")
    if boxes.empty:
        faults.append(f"{path} must name photographs of the table, but none of its rows does")
    return rows.merge(boxes.drop_duplicates("image"), on="image", how="left", sort=False), faults
