"""Formats of data sets, and the recognition of the format of a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from whale_ray.data.formats.coco import read_coco, recognize_coco
from whale_ray.data.formats.data_layout import AnimalTable, DataLayout
from whale_ray.data.formats.folders import read_folders, recognize_folders
from whale_ray.data.formats.format_names import AUTO
from whale_ray.data.formats.kaggle import read_kaggle, recognize_kaggle, require_kaggle_layout
from whale_ray.data.formats.wildlife import read_wildlife, recognize_wildlife
from whale_ray.errors import DataError


@dataclass(frozen=True)
class DataFormat:
    """A format of data sets.

    Attributes:
        recognize: Returns why a folder has the format, None if it has not.
        read: Reads the rows.
        meaning: The format in a few words.
    """

    recognize: Callable[[DataLayout], str | None]
    read: Callable[[DataLayout], AnimalTable]
    meaning: str


# In the order in which `auto` looks for them.
FORMATS = {
    "kaggle": DataFormat(recognize_kaggle, read_kaggle, "a table of file names and individuals"),
    "wildlife": DataFormat(recognize_wildlife, read_wildlife, "metadata.csv of wildlife-datasets"),
    "coco": DataFormat(recognize_coco, read_coco, "a COCO file with images and annotations"),
    "folders": DataFormat(recognize_folders, read_folders, "a folder for each individual"),
}


def choose_format(name: str, layout: DataLayout) -> tuple[str, str]:
    """Return the name of the format to read a folder with, and why.

    Args:
        name: A key of `FORMATS`, or `auto`.
        layout: The data set.

    Raises:
        DataError: If the folder does not exist, or `auto` recognises no format.
    """
    if name != AUTO:
        if not layout.root.is_dir() and name != "kaggle":
            raise DataError(f"the photographs must lie in a folder, but {layout.root} is none. Name it with --data DIR")
        return name, "chosen by data.format"
    for format_name, entry in FORMATS.items():
        if reason := entry.recognize(layout):
            return format_name, reason
    if layout.root.is_dir():
        require_kaggle_layout(
            layout,
            " Nor is there a metadata.csv with path and identity (wildlife), a JSON file with images and annotations "
            "(coco), or two folders of photographs named after individuals (folders).",
        )
    return "kaggle", "no other format was recognised"
