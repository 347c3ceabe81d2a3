"""Rows of a data set to export, and what the writers share: names, sizes, dates and copies of photographs."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from whale_ray.data.decoding.image_size import read_image_size
from whale_ray.data.formats.animal_rows import BOX
from whale_ray.data.image_io import Box

IMAGES = "images"


@dataclass(frozen=True)
class ExportedRows:
    """Rows of a data set to export.

    Attributes:
        table: Columns of `animal_rows.COLUMNS`.
        unknown_label: Label of unknown individuals.
        folder: Folder of the image files; None if it is not known, as for a bundle.
        copies_images: Image files are copied to images/ of the export.
    """

    table: pd.DataFrame
    unknown_label: str
    folder: Path | None = None
    copies_images: bool = False

    def records(self) -> list[dict[str, str]]:
        """Return the text columns of each row; the individual is "" if it is unknown."""
        names = ["image", "file", "individual", "group", "date", "view", "species"]
        known = self.table["individual"] != self.unknown_label
        table = self.table[names].assign(individual=self.table["individual"].where(known, ""))
        return [{str(key): str(value) for key, value in row.items()} for row in table.to_dict("records")]

    def boxes(self) -> list[Box | None]:
        """Return the box of each row in pixels, None for the whole photograph."""
        sides = self.table[list(BOX)].to_numpy(dtype=float).tolist()
        return [None if x0 != x0 else (x0, y0, x1, y1) for x0, y0, x1, y1 in sides]

    def path(self, file: str) -> str:
        """Return the path of an image file in the export's tables, relative to the export or to the image folder."""
        return f"{IMAGES}/{file}" if self.copies_images else file

    @cached_property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Width and height of each photograph that can be read, by file name."""
        if self.folder is None:
            return {}
        files = self.table["file"].unique()
        return {file: size for file in files if (size := read_image_size(self.folder / file)) is not None}

    def copy_images(self, folder: Path) -> list[str]:
        """Copy the image files to images/ below a folder and return the names of those that are missing."""
        if not self.copies_images or self.folder is None:
            return []
        missing = []
        for file in self.table["file"].unique():
            target = folder / IMAGES / file
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(self.folder / file, target)
            except FileNotFoundError:
                missing.append(file)
        return missing


def spaced_date(date: str) -> str:
    """Return an ISO 8601 date with a space between day and time, as wildlife-datasets and COCO write it."""
    return date.replace("T", " ", 1)


def without_size(rows: ExportedRows) -> int:
    """Return the number of rows whose photograph has no known size."""
    return int((~rows.table["file"].isin(set(rows.sizes))).sum())
