"""Boxes from a file of their own (`data.boxes`): a table, COCO JSON, or the output of MegaDetector."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from whale_ray.data.decoding.image_size import read_image_size
from whale_ray.data.delimited_table import read_table
from whale_ray.data.formats.animal_rows import BOX, complete_rows
from whale_ray.data.formats.cell_values import box_columns
from whale_ray.data.formats.coco import annotation_box, index_images, require_coco
from whale_ray.data.formats.data_layout import list_names
from whale_ray.data.formats.json_files import is_megadetector, read_json, text_of
from whale_ray.data.formats.kaggle import box_sides
from whale_ray.data.image_io import Box

MIN_CONFIDENCE = 0.2
"""Confidence below which a detection of MegaDetector is left out, as its user guide recommends for version 5."""
_NOT_ANIMALS = {"person", "vehicle", "human"}


@dataclass(frozen=True)
class BoxTable:
    """Boxes of a file.

    Attributes:
        rows: Columns file and x0, y0, x1, y1, and individual if the file names it; the index is the position.
        faults: Faults of the file.
        notes: Remarks, one sentence each.
    """

    rows: pd.DataFrame
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def with_boxes(rows: pd.DataFrame, path: Path, *, folder: Path, label_column: str) -> tuple[pd.DataFrame, BoxTable]:
    """Return the rows of a data set with the boxes of a file, and what was read.

    Boxes of other photographs are left out. A photograph with several rows takes its boxes by individual. A photograph
    that the file does not list keeps its own box.

    Args:
        rows: Columns file and individual.
        path: A table with the columns Image, x0, y0, x1, y1 (and `label_column`), COCO JSON or MegaDetector's JSON.
        folder: Folder of the image files.
        label_column: Column of individuals in the table of boxes.

    Raises:
        DataError: If the file cannot be read.
    """
    found = _read_boxes(path, folder, set(rows["file"]), label_column)
    boxes = found.rows[found.rows["file"].isin(set(rows["file"]))]
    keys = ["file"]
    if "individual" in boxes and rows["file"].duplicated().any():
        keys = ["file", "individual"]
    twice = boxes[boxes.duplicated(keys)]
    faults = list(found.faults)
    if len(twice):
        named = [f"{file} ({position})" for position, file in twice["file"].items()]
        faults.append(f"a photograph has one box, but {list_names(named)} has more")
    if boxes.empty and not faults:
        shown = f" Write names as the data set does, such as {rows['file'].iat[0]}" if len(rows) else ""
        faults.append(f"the boxes must be those of photographs of the data set, but none is.{shown}")
    merged = rows.drop(columns=list(BOX), errors="ignore").merge(
        boxes.drop_duplicates(keys)[[*keys, *BOX]], on=keys, how="left", sort=False
    )
    merged = complete_rows(merged).set_axis(rows.index)
    is_listed = rows["file"].isin(boxes["file"])
    merged[list(BOX)] = merged[list(BOX)].where(is_listed, rows[list(BOX)])
    return merged, BoxTable(boxes, tuple(faults), found.notes)


def _read_boxes(path: Path, folder: Path, files: set[str], label_column: str) -> BoxTable:
    if path.suffix.casefold() != ".json":
        return _table_boxes(path, files, label_column)
    content = read_json(path)
    if is_megadetector(content):
        return _megadetector_boxes(content, folder, files)
    require_coco(content, path)
    return _coco_boxes(content, files)


def _table_boxes(path: Path, files: set[str], label_column: str) -> BoxTable:
    table = read_table(path, columns=("Image", *BOX))
    table.require(("Image", *BOX))
    sides, faults = box_sides(table, table.column("Image"), files)
    rows = sides.assign(file=table.column("Image"))
    if label_column in table.columns:
        rows["individual"] = table.column(label_column)
    rows = rows.set_axis([f"line {line}" for line in table.lines])
    return BoxTable(rows, tuple(faults), tuple(table.notes))


def _coco_boxes(content: Mapping[str, Any], files: set[str]) -> BoxTable:
    images, faults = index_images(content["images"])
    rows, wrong = [], []
    for place, entry in enumerate(content["annotations"]):
        entry = entry if isinstance(entry, dict) else {}
        image = images.get(text_of(entry, "image_id")) or images.get(text_of(entry, "image_uuid"))
        if image is None:
            continue
        try:
            box = annotation_box(entry, image)
        except ValueError as error:
            wrong.append(f"that of annotations[{place}] {error}")
            continue
        rows.append((f"annotations[{place}]", _listed_name(str(image["file"]), files), box))
    if wrong:
        faults.append(f"bbox must be [x, y, width, height] inside the picture, but {list_names(wrong)}")
    return BoxTable(_box_rows(rows), tuple(faults))


def _megadetector_boxes(content: Mapping[str, Any], folder: Path, files: set[str]) -> BoxTable:
    """Return the most confident detection of an animal on each photograph, in pixels of the upright image."""
    names = content.get("detection_categories") or {"1": "animal"}
    others = {key for key, name in names.items() if str(name).casefold() in _NOT_ANIMALS}
    rows, wrong, several, none = [], [], [], []
    for place, entry in enumerate(content["images"]):
        entry = entry if isinstance(entry, dict) else {}
        file = _listed_name(text_of(entry, "file", "file_name"), files)
        if file not in files:
            continue
        found = [one for one in entry.get("detections") or [] if _is_animal(one, others)]
        try:
            boxes = [_relative_box(one) for one in found]
        except ValueError as error:
            wrong.append(f"that of images[{place}] ({file}) {error}")
            continue
        if not boxes:
            none.append(file)
            continue
        several += [file] if len(boxes) > 1 else []
        best = max(range(len(found)), key=lambda number: float(found[number]["conf"]))
        size = read_image_size(folder / file)
        rows.append((f"images[{place}]", file, _in_pixels(boxes[best], size) if size else None))
    rule = "bbox must be [x, y, width, height] as shares of the picture from 0 to 1, but "
    notes = []
    if several:
        notes.append(
            f"{len(several)} photographs have several detections and take the most confident: {list_names(several)}"
        )
    if none:
        notes.append(
            f"{len(none)} photographs have no animal of confidence {MIN_CONFIDENCE} and are used whole: "
            f"{list_names(none)}"
        )
    return BoxTable(
        _box_rows(rows + [("", file, None) for file in none]),
        (rule + list_names(wrong),) if wrong else (),
        tuple(notes),
    )


def _is_animal(detection: Any, others: set[str]) -> bool:
    if not isinstance(detection, dict) or not isinstance(detection.get("conf"), int | float):
        return False
    return detection["conf"] >= MIN_CONFIDENCE and text_of(detection, "category") not in others


def _relative_box(detection: Mapping[str, Any]) -> Box:
    sides = detection.get("bbox")
    if not isinstance(sides, list) or len(sides) != 4 or not all(isinstance(side, int | float) for side in sides):
        raise ValueError(f"is {sides!r}")
    x, y, width, height = map(float, sides)
    if not all(map(math.isfinite, (x, y, width, height))) or width <= 0 or height <= 0 or max(x, y) >= 1:
        raise ValueError(f"is {sides!r}")
    if x + width > 1.5 or y + height > 1.5:
        raise ValueError(f"is {sides!r}, which looks like pixels")
    return x, y, x + width, y + height


def _in_pixels(box: Box, size: tuple[int, int]) -> Box:
    (x0, y0, x1, y1), (width, height) = box, size
    left, top, right, bottom = (round(side, 2) for side in (x0 * width, y0 * height, x1 * width, y1 * height))
    return left, top, right, bottom


def _box_rows(rows: list[tuple[str, str, Box | None]]) -> pd.DataFrame:
    columns = box_columns([box for _, _, box in rows])
    return pd.DataFrame({"file": [file for _, file, _ in rows], **columns}, index=[place for place, _, _ in rows])


def _listed_name(name: str, files: set[str]) -> str:
    """Return the file name of the data set that a path ends with; the path itself if there is none."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    endings = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((ending for ending in endings if ending in files), name)
