"""Faults that the rows of every format may have: missing names, rows with one box, paths that leave the folder."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import pandas as pd

from whale_ray.file_errors import is_inside

_MAX_LISTED = 5
_DO = ("does", "do")


def row_faults(rows: pd.DataFrame, unknown_label: str, unit: str) -> list[str]:
    """Return the faults of the rows of a data set.

    Args:
        rows: Columns image, file and individual; the index is the position of each row in the source.
        unknown_label: Label of unknown individuals.
        unit: Word for a position, such as `line`.
    """
    image, file, individual = rows["image"], rows["file"], rows["individual"]
    faults = [
        *_fault_with_names(rows.index[file == ""], "a row must name its photograph, but {} {} not", unit, _DO),
        *(
            f"{fault}. Write its name, or {unknown_label} for an unknown animal"
            for fault in _fault_with_names(
                rows.index[individual == ""], "a row must name its individual, but {} {} not", unit, _DO
            )
        ),
        *_fault_with_names(
            image[image.duplicated() & (file != "")],
            "a photograph has one row, or for each animal one with its own box (x0, y0, x1, y1), but {} {} more. "
            "Delete the rows that repeat another, or give boxes",
            "photograph",
            ("has", "have"),
        ),
        *_fault_with_names(
            outside := file[file.map(_leaves_folder)].drop_duplicates().tolist(),
            "a photograph lies inside the folder, but the path of {} {} it. Write names below the image folder",
            "photograph",
            ("leaves", "leave"),
        ),
    ]
    if outside:
        faults[-1] += f", such as {PurePosixPath(_slashes(outside[0])).name}: leave out the start of each path"
    if rows.empty:
        return [*faults, "a table must have a row for each photograph, but has none. Add rows below its header"]
    counts = individual[individual != unknown_label].value_counts()
    if not faults and (counts.empty or counts.iloc[0] < 2):
        faults.append(
            "at least one individual must have two photographs, one to know it by and one to find, but none has. "
            "Add photographs, or look whether the label column is the right one"
        )
    return faults


def _fault_with_names(values: Iterable[object], message: str, noun: str, verbs: tuple[str, str]) -> list[str]:
    """Return the message with noun and names, and verb, for one or several names; nothing if there are no names."""
    shown = [str(value) for value in values]
    if not shown:
        return []
    several = len(shown) > 1
    more = f" and {len(shown) - _MAX_LISTED} more" if len(shown) > _MAX_LISTED else ""
    names = f"{noun}{'s' * several} {', '.join(shown[:_MAX_LISTED])}{more}"
    return [message.format(names, verbs[several])]


def _slashes(image: str) -> str:
    return image.replace("\\", "/")


def _leaves_folder(image: str) -> bool:
    path = PurePosixPath(_slashes(image))
    has_drive = re.match(r"[A-Za-z]:/", str(path)) is not None  # other colons are part of the name
    return path.is_absolute() or ".." in path.parts or has_drive


def link_faults(images: pd.Series, folder: Path) -> list[str]:
    """Return a fault for images that are links to a place outside the folder.

    Args:
        images: File names below the folder.
        folder: Folder of the image files.
    """
    links = [image for image in images if not _leaves_folder(image) and not is_inside(folder / image, folder)]
    return _fault_with_names(
        links, "a photograph lies inside the folder, but {} {} out of it", "photograph", ("links", "link")
    )
