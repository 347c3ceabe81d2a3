"""Format `coco`: COCO JSON as Wildbook and MiewID write it, one annotation for each animal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from whale_ray.data.encounters.photo_dates import date_notes, parse_dates
from whale_ray.data.formats.cell_values import box_columns, box_of_sides, is_unknown
from whale_ray.data.formats.data_layout import AnimalTable, DataLayout, list_names
from whale_ray.data.formats.json_files import described, is_coco, is_megadetector, read_json, text_of
from whale_ray.data.image_io import Box
from whale_ray.errors import DataError

# Keys by the column of the catalog, the preferred one first.
INDIVIDUAL = ("name", "individual_id", "individual_uuid", "individual", "identity")
FILE = ("file_name", "image_path", "path")
_VIEW = ("viewpoint", "orientation", "view")
_GROUP = ("encounter", "encounter_id", "encounter_uuid", "seq_id")
WHOLE_IMAGE = "whole_image"
"""Key of annotations whose box is that of the whole image, in files that whale_ray exported."""
_NO_SPECIES = {"animal", "unknown"}
_DATE = ("date_captured", "datetime", "date")


def recognize_coco(layout: DataLayout) -> str | None:
    """Return why the folder holds a COCO file; None if it does not."""
    files = _candidates(layout)
    found = [path for path in files if is_coco(_read_quietly(path))]
    return f"{' and '.join(map(str, found))} has the lists images and annotations" if found else None


def read_coco(layout: DataLayout) -> AnimalTable:
    """Return a row for each annotation of a COCO file.

    The individual is the annotation's name (or individual_id, individual_uuid, individual, identity), and the category
    is its species. Where no annotation has one of these, the category is the individual.

    Raises:
        DataError: If there is no COCO file, or several.
    """
    path = _only_file(layout)
    content = read_json(path)
    require_coco(content, path)
    images, faults = index_images(content["images"])
    found, wrong = _animals(content, images, layout.unknown_label)
    rows = pd.DataFrame([row for _, row in found], index=[position for position, _ in found], dtype=object)
    notes = _notes(content, images, rows)
    if found:
        parsed = parse_dates(rows["date"])
        rows["date"] = parsed.dates
        notes += date_notes(parsed, "annotation")
    elif not wrong:
        faults.append("the file must have annotations, but the list annotations is empty. Export it with annotations")
    folder = _image_folder(layout, path, [str(image["file"]) for image in images.values()])
    return AnimalTable(
        rows if found else pd.DataFrame(columns=["file", "individual", "date"], dtype=object),
        folder,
        path,
        "annotation",
        notes=tuple(notes),
        faults=(*faults, *wrong),
    )


def require_coco(content: Any, path: Path) -> None:
    """Check that the content of a JSON file is COCO.

    Args:
        content: The content.
        path: Its file.

    Raises:
        DataError: With what the file has instead.
    """
    if is_megadetector(content):
        raise DataError(
            f"a COCO file names individuals, but {path} is the output of MegaDetector, which has boxes alone. Name it "
            "in data.boxes, beside a table or folders of individuals"
        )
    if not is_coco(content):
        raise DataError(f"a COCO file has the lists images and annotations, but {path} has {described(content)}")


def index_images(entries: list[Any]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the images of a COCO file by id, each with `file`, and the faults of the list.

    Images are also listed under their uuid, which some annotations name instead of the id.

    Args:
        entries: The list `images`.
    """
    images: dict[str, dict[str, Any]] = {}
    nameless, twice = [], []
    for place, entry in enumerate(entries):
        entry = entry if isinstance(entry, dict) else {}
        file, key = text_of(entry, *FILE).replace("\\", "/"), text_of(entry, "id", "uuid")
        if not file or not key or "\0" in file:
            nameless.append(f"images[{place}]")
            continue
        if key in images:
            twice.append(f"images[{place}] (id {key})")
        for name in {key, text_of(entry, "uuid")} - {""}:
            images[name] = {**entry, "file": file}
    faults = []
    if nameless:
        faults.append(f"an image must have id and file_name, but {list_names(nameless)} lacks one")
    if twice:
        faults.append(f"an image has an id of its own, but that of {list_names(twice)} was used before")
    return images, faults


def _animals(
    content: Mapping[str, Any], images: Mapping[str, dict[str, Any]], unknown_label: str
) -> tuple[list[tuple[str, dict[str, Any]]], list[str]]:
    """Return the position and the row of each annotation, and the faults of annotations."""
    categories = {
        text_of(one, "id"): text_of(one, "name") for one in content.get("categories") or [] if _is_object(one)
    }
    entries = [one if _is_object(one) else {} for one in content["annotations"]]
    has_names = any(text_of(one, *INDIVIDUAL) for one in entries)
    found, seen = [], set[str]()
    wrong: dict[str, list[str]] = {}
    for place, entry in enumerate(entries):
        key = text_of(entry, "id")
        position = f"annotations[{place}]" + (f" (id {key})" if key else "")
        image = images.get(text_of(entry, "image_id")) or images.get(text_of(entry, "image_uuid"))
        if key and key in seen:
            wrong.setdefault("an annotation has an id of its own, but that of {} was used before", []).append(position)
        seen.add(key)
        if image is None:
            rule = "an annotation names an image of the list images, but the image_id of {} is not in it"
            wrong.setdefault(rule, []).append(position)
            continue
        try:
            box = annotation_box(entry, image)
        except ValueError as error:
            rule = "bbox must be [x, y, width, height] with a positive size inside the picture, but {}"
            wrong.setdefault(rule, []).append(f"that of {position} {error}")
            continue
        category = categories.get(text_of(entry, "category_id"), "")
        name = text_of(entry, *INDIVIDUAL) if has_names else category
        found.append((position, _row(entry, image, box, unknown_label if is_unknown(name) else name)))
        kind = category if has_names and category.casefold() not in _NO_SPECIES else ""
        found[-1][1]["species"] = text_of(entry, "species") or kind
    return found, [rule.format(list_names(positions)) for rule, positions in wrong.items()]


def _row(entry: Mapping[str, Any], image: Mapping[str, Any], box: Box | None, individual: str) -> dict[str, Any]:
    view = text_of(entry, *_VIEW)
    return {
        "file": image["file"],
        "individual": individual,
        "group": text_of(entry, *_GROUP) or text_of(image, *_GROUP),
        **{side: values[0] for side, values in box_columns([box]).items()},
        "date": text_of(image, *_DATE) or text_of(entry, *_DATE),
        "view": "" if is_unknown(view) else view,
    }


def annotation_box(entry: Mapping[str, Any], image: Mapping[str, Any]) -> Box | None:
    """Return the box of an annotation in pixels, None if it has none.

    Args:
        entry: The annotation.
        image: Its image; width and height, where given, are the bounds.

    Raises:
        ValueError: If the box has no size or lies outside the image; the message is the second half of a sentence.
    """
    sides = entry.get("bbox")
    if sides is None or sides == [] or entry.get(WHOLE_IMAGE) is True:
        return None
    box = box_of_sides(sides if isinstance(sides, list) else [sides])
    width, height = image.get("width"), image.get("height")
    if isinstance(width, int | float) and isinstance(height, int | float) and width > 0 and height > 0:
        inside = min(box[2], width) - max(box[0], 0) >= 1 and min(box[3], height) - max(box[1], 0) >= 1
        if not inside:
            raise ValueError(f"lies outside of {width} x {height}: {sides}")
    return box


def _notes(content: Mapping[str, Any], images: Mapping[str, Any], rows: pd.DataFrame) -> list[str]:
    files = {str(image["file"]) for image in images.values()}
    bare = sorted(files - set(rows["file"] if len(rows) else ()))
    notes = [f"{len(bare)} images have no annotation and get no row: {list_names(bare)}"] if bare else []
    if any(_is_object(one) and one.get("theta") for one in content["annotations"]):
        notes.append("some boxes are rotated (theta); the rotation is not applied")
    return notes


def _is_object(entry: Any) -> bool:
    return isinstance(entry, dict)


def _candidates(layout: DataLayout) -> list[Path]:
    """Return the JSON files of a data set: the chosen table, or those in the root and in annotations/."""
    if layout.chosen("table"):
        named = layout.root / layout.table
        return [named] if named.suffix.casefold() == ".json" and named.is_file() else []
    return sorted((*layout.root.glob("*.json"), *layout.root.glob("annotations/*.json")))


def _read_quietly(path: Path) -> Any:
    try:
        return read_json(path)
    except DataError:
        return None


def _only_file(layout: DataLayout) -> Path:
    files = _candidates(layout)
    if len(files) == 1:
        return files[0]
    found = [path for path in files if is_coco(_read_quietly(path))]
    if len(found) == 1:
        return found[0]
    came = f"has {', '.join(str(path.relative_to(layout.root)) for path in found)}" if found else "has none"
    raise DataError(
        f"{layout.root} must hold one COCO file (*.json or annotations/*.json), but {came}. Name it in data.table"
    )


def _image_folder(layout: DataLayout, path: Path, files: list[str]) -> Path:
    """Return the folder that file_name starts from: the first of the usual ones that has an image of the list."""
    stem = path.stem.removeprefix("instances_")
    names = (layout.image_folder, f"images/{stem}", "images", stem, str(PurePosixPath(".")))
    folders = [layout.root / name for name in names]
    for folder in folders:
        if folder.is_dir() and any((folder / file).is_file() for file in files[:20]):
            return folder
    return next((folder for folder in folders if folder.is_dir()), layout.root)
