"""Photographs of a discovery: rows of a data set or image files of a folder, some or none of them named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from whale_ray.data.catalog import Catalog
from whale_ray.data.decoding.find_image_files import find_images
from whale_ray.data.delimited_table import read_table
from whale_ray.data.formats.animal_rows import complete_rows, row_ids
from whale_ray.data.formats.box_files import with_boxes
from whale_ray.errors import DataError
from whale_ray.suggestions import suggest

_MAX_LISTED = 10


def photographs_in_folder(
    folder: Path, *, boxes: Path | None = None, unknown_label: str = "new_whale"
) -> tuple[Catalog, dict[str, str]]:
    """Return the image files of a folder and its sub-folders, all unnamed, and the reason for each other file.

    Args:
        folder: Folder of photographs.
        boxes: File of boxes, as `data.boxes` of a sweep takes it; one box per photograph.
        unknown_label: Label of unnamed photographs.

    Raises:
        DataError: If the folder has no photograph, or the boxes cannot be used.
    """
    found = find_images(folder)
    rows = complete_rows(pd.DataFrame({"image": list(found.images), "individual": unknown_label}))
    if boxes is not None:
        rows, boxed = with_boxes(rows, boxes, folder=folder, label_column="Id")
        if boxed.faults:
            raise DataError("\n".join([f"{boxes} cannot be used, nothing was started:", *boxed.faults]))
        rows["image"] = row_ids(rows)
    return Catalog(rows.reset_index(drop=True), folder, unknown_label), found.others


def with_labels(catalog: Catalog, path: Path, *, image_column: str = "Image", label_column: str = "Id") -> Catalog:
    """Return the catalog with the individuals of a table; photographs without a row stay as they are.

    Args:
        catalog: The photographs.
        path: Table of image names and individuals.
        image_column: Column of image names.
        label_column: Column of individuals; the unknown label and an empty cell name none.

    Raises:
        DataError: With every row that names no photograph, or a photograph with two individuals.
    """
    table = read_table(path, columns=(image_column, label_column))
    table.require((image_column, label_column), remedy="Name them with data.image_column and data.label_column")
    images, faults = set(catalog.table["image"]), []
    names: dict[str, tuple[str, int]] = {}
    rows = zip(table.lines.tolist(), table.column(image_column), table.column(label_column), strict=True)
    for line, image, individual in rows:
        if image not in images:
            hint = suggest(image, images) or f"Write the path below {catalog.folder}"
            faults.append(f"line {line}: a row names a photograph, but {image!r} is none. {hint}")
        elif image in names and names[image][0] != individual:
            faults.append(
                f"line {line}: a photograph has one individual, but {image} is {individual!r} here and "
                f"{names[image][0]!r} in line {names[image][1]}. Delete one of the rows"
            )
        else:
            names[image] = (individual, line)
    if faults:
        more = [f"and {len(faults) - _MAX_LISTED} more"] * (len(faults) > _MAX_LISTED)
        listed = [f"  {one}" for one in [*faults[:_MAX_LISTED], *more]]
        raise DataError("\n".join([f"{path} cannot be used, nothing was started:", *listed]))
    given = {image: individual for image, (individual, _) in names.items() if individual}
    individuals = [given.get(*row) for row in zip(catalog.table["image"], catalog.table["individual"], strict=True)]
    return replace(catalog, table=catalog.table.assign(individual=individuals))
