"""Formats of exports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from whale_ray.data.exports.camtrap_dp import write_camtrap_dp
from whale_ray.data.exports.coco_json import write_coco
from whale_ray.data.exports.exported_rows import ExportedRows
from whale_ray.data.exports.wildbook_import import write_wildbook
from whale_ray.data.exports.wildlife_metadata import write_wildlife
from whale_ray.data.formats.data_layout import list_names
from whale_ray.errors import DataError
from whale_ray.suggestions import suggest

# Writers by format: each takes the rows and the folder, and returns remarks.
EXPORTS: dict[str, Callable[[ExportedRows, Path], list[str]]] = {
    "wildlife": write_wildlife,
    "coco": write_coco,
    "camtrap-dp": write_camtrap_dp,
    "wildbook": write_wildbook,
}


def export_rows(rows: ExportedRows, format_name: str, folder: Path) -> list[str]:
    """Write rows in a format of another program and return remarks, one sentence each.

    Args:
        rows: The rows.
        format_name: A key of `EXPORTS`.
        folder: Folder of the export: a new one, or an empty one.

    Raises:
        DataError: If there is no such format, the folder holds something already, or the photographs of a bundle are to
            be copied.
    """
    if format_name not in EXPORTS:
        hint = suggest(format_name, EXPORTS)
        raise DataError(f"--format must be one of {', '.join(EXPORTS)}, but got {format_name!r}. {hint}".rstrip())
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(
            f"an export never overwrites anything, but {folder} is not an empty folder. Name another folder"
        )
    if rows.copies_images and rows.folder is None:
        raise DataError("--copy-images needs the photographs, but a bundle has none. Export the run folder instead")
    folder.mkdir(parents=True, exist_ok=True)
    remarks = EXPORTS[format_name](rows, folder)
    if missing := rows.copy_images(folder):
        remarks.append(f"{len(missing)} photographs were not found and not copied: {list_names(missing)}")
    return remarks
