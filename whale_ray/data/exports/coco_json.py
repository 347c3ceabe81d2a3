"""Export as COCO JSON with the keys of Wildbook and MiewID."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from whale_ray.atomic_files import write_atomically
from whale_ray.data.exports.exported_rows import ExportedRows, spaced_date, without_size
from whale_ray.data.exports.wildlife_metadata import ambiguous_names
from whale_ray.data.formats.coco import WHOLE_IMAGE
from whale_ray.data.image_io import Box

ANNOTATIONS = "annotations.json"
_UNKNOWN = "____"  # Wildbook's name of unknown individuals
_NO_SPECIES = "animal"


def write_coco(rows: ExportedRows, folder: Path) -> list[str]:
    """Write annotations.json and return remarks.

    A row without a box gets that of the whole photograph and the key `whole_image`, since readers of COCO need a box.

    Args:
        rows: The rows.
        folder: Folder of the export.
    """
    records = rows.records()
    files = list(dict.fromkeys(row["file"] for row in records))
    places = {file: place for place, file in enumerate(files, 1)}
    dates = {row["file"]: row["date"] for row in records}
    species = sorted({row["species"] or _NO_SPECIES for row in records})
    content = {
        "info": {"description": "exported by whale_ray"},
        "licenses": [],
        "categories": [{"id": place, "name": name} for place, name in enumerate(species, 1)],
        "images": [_image(rows, place, file, dates[file]) for file, place in places.items()],
        "annotations": [
            {
                "id": place,
                "image_id": places[row["file"]],
                "category_id": species.index(row["species"] or _NO_SPECIES) + 1,
                **_region(box, rows.sizes.get(row["file"])),
                "iscrowd": 0,
                "name": row["individual"] or _UNKNOWN,
                "viewpoint": row["view"] or None,
                **({"encounter": row["group"]} if row["group"] else {}),
            }
            for place, (row, box) in enumerate(zip(records, rows.boxes(), strict=True), 1)
        ],
    }
    write_atomically(folder / ANNOTATIONS, json.dumps(content, indent=1))
    missing = without_size(rows)
    remarks = [f"{missing} rows lack width and height, since their photographs were not found"] if missing else []
    return remarks + ambiguous_names(rows)


def _image(rows: ExportedRows, place: int, file: str, date: str) -> dict[str, Any]:
    size = rows.sizes.get(file)
    return {
        "id": place,
        "file_name": file,
        **({"width": size[0], "height": size[1]} if size else {}),
        **({"date_captured": spaced_date(date)} if date else {}),
    }


def _region(box: Box | None, size: tuple[int, int] | None) -> dict[str, Any]:
    if box is None:
        return {} if size is None else {"bbox": [0, 0, *size], "area": size[0] * size[1], WHOLE_IMAGE: True}
    width, height = box[2] - box[0], box[3] - box[1]
    return {"bbox": [box[0], box[1], width, height], "area": width * height}
