"""Dataset index: image file, box, individual and encounter of every animal in the photographs.

Reads the data set in one of the formats of `formats.registry` and decodes no image. All faults are reported in one
message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
from PIL import Image

from whale_ray.data.decoding.file_limit import MAX_BYTES
from whale_ray.data.formats.animal_rows import BOX, complete_rows, row_ids
from whale_ray.data.formats.box_files import with_boxes
from whale_ray.data.formats.data_layout import DataLayout
from whale_ray.data.formats.format_names import AUTO
from whale_ray.data.formats.registry import FORMATS, choose_format
from whale_ray.data.hints.row_faults import link_faults, row_faults
from whale_ray.data.image_io import Box, decode_image
from whale_ray.errors import DataError


@dataclass(frozen=True)
class Recognition:
    """Format and source that a data set was read from.

    Attributes:
        format_name: A key of `FORMATS`.
        reason: Why this format was taken.
        source: The file, or the folder, that was read.
        recognized: Separator and encoding of a table; "" otherwise.
        notes: Remarks, one sentence each.
        root: Folder of the data set; None if unknown.
    """

    format_name: str
    reason: str
    source: Path
    recognized: str = ""
    notes: tuple[str, ...] = ()
    root: Path | None = None


@dataclass(frozen=True)
class Catalog:
    """The animals in the photographs of a data set.

    Attributes:
        table: One row per animal in a photograph, with the columns of `animal_rows.COLUMNS`. `image` identifies the
            row: the file name where the photograph has one row, otherwise the file name with the box.
        folder: Folder of the image files.
        unknown_label: Label of animals whose individual is unknown.
        image_bytes: Largest accepted file in bytes.
        recognition: How the data set was read; None if it was not read from files.
    """

    table: pd.DataFrame
    folder: Path
    unknown_label: str
    image_bytes: int = MAX_BYTES
    recognition: Recognition | None = None

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
    format_name: str = AUTO,
    table: str = "train.csv",
    image_folder: str = "train",
    image_column: str = "Image",
    label_column: str = "Id",
    group_column: str | None = None,
    date_column: str | None = None,
    place_column: str | None = None,
    view_column: str | None = None,
    species_column: str | None = None,
    boxes: Path | None = None,
    unknown_label: str = "new_whale",
    image_bytes: int = MAX_BYTES,
    check_files: bool = True,
) -> Catalog:
    """Read the rows of a data set.

    Args:
        root: Folder of the data set.
        format_name: A key of `FORMATS`, or `auto`.
        table: File name of the table below `root`.
        image_folder: Folder of the image files below `root`.
        image_column: Column of file names.
        label_column: Column of individuals.
        group_column: Column of encounters or days; None if there is no such column.
        date_column: Column of dates; None for the EXIF dates.
        place_column: Column of places; None if there is no such column.
        view_column: Column of views such as left or dorsal; None if there is no such column.
        species_column: Column of species; None if there is no such column.
        boxes: File of boxes that images are cropped to: a table with the columns Image, x0, y0, x1, y1 in pixels, COCO
            JSON or MegaDetector's JSON.
        unknown_label: Label of animals whose individual is unknown.
        image_bytes: Largest accepted image file in bytes.
        check_files: Require the image folder to exist. False reads the table alone.

    Returns:
        The catalog, in the row order of the source.

    Raises:
        DataError: With every fault of the source and of the boxes.
    """
    layout = DataLayout(
        root,
        table,
        image_folder,
        image_column,
        label_column,
        group_column,
        date_column,
        place_column,
        view_column,
        species_column,
        unknown_label=unknown_label,
        check_files=check_files,
    )
    chosen, reason = choose_format(format_name, layout)
    read = FORMATS[chosen].read(layout)
    rows, found = complete_rows(read.rows), None
    if boxes is not None:
        rows, found = with_boxes(rows, boxes, folder=read.folder, label_column=label_column)
    rows["image"] = row_ids(rows)
    faults = [*row_faults(rows, unknown_label, read.unit), *read.faults]
    if check_files:
        faults += link_faults(rows["file"].drop_duplicates(), read.folder)
    _raise_faults({read.source: faults, boxes: found.faults if found else ()})
    notes = (*read.notes, *(found.notes if found else ()))
    recognition = Recognition(chosen, reason, read.source, read.recognized, notes, root)
    return Catalog(rows.reset_index(drop=True), read.folder, unknown_label, image_bytes, recognition)


def _raise_faults(faults: Mapping[Path | None, Sequence[str]]) -> None:
    """Raise one error with the faults of all files, if there is any."""
    lines = [
        line
        for path, found in faults.items()
        if found
        for line in (f"{path} cannot be used, nothing was started:", *(f"  {fault}" for fault in found))
    ]
    if lines:
        raise DataError("\n".join(lines))
