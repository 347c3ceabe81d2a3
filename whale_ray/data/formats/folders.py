"""Format `folders`: a folder of photographs for each individual; deeper folders are its encounters."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pandas as pd

from whale_ray.data.decoding.find_image_files import find_images, holds_image
from whale_ray.data.formats.data_layout import AnimalTable, DataLayout, list_names

_FEWEST = 2  # folders with photographs by which the format is recognised


def recognize_folders(layout: DataLayout) -> str | None:
    """Return why the folder holds a folder for each individual; None if it does not."""
    base = _base(layout)
    if not base.is_dir():
        return None
    children = (child for child in sorted(base.iterdir()) if child.is_dir() and not child.name.startswith("."))
    found: list[str] = []
    for child in children:
        if holds_image(child):
            found.append(child.name)
        if len(found) == _FEWEST:
            return f"{base} has folders with photographs, such as {' and '.join(found)}"
    return None


def read_folders(layout: DataLayout) -> AnimalTable:
    """Return a row for each photograph below the folders of individuals.

    The first folder below the base is the individual and the folders below that are the encounter. The base is
    `root`/`image_folder` if it exists, otherwise `root`. A photograph that lies in no folder shows an unknown animal.

    Raises:
        DataError: If there is no photograph.
    """
    base = _base(layout)
    files = find_images(base)
    parts = [PurePosixPath(image).parts for image in files.images]
    rows = pd.DataFrame(
        {
            "file": files.images,
            "individual": [part[0] if len(part) > 1 else layout.unknown_label for part in parts],
            "group": ["/".join(part[1:-1]) for part in parts],
        },
        index=list(files.images),
        dtype=object,
    )
    notes = []
    if loose := [image for image, part in zip(files.images, parts, strict=True) if len(part) == 1]:
        notes.append(f"{len(loose)} photographs lie in no folder and count as unknown: {list_names(loose)}")
    if files.others:
        others = [f"{name} ({reason})" for name, reason in files.others.items()]
        notes.append(f"{len(others)} other files get no row: {list_names(others)}")
    return AnimalTable(rows, base, base, "file", notes=tuple(notes))


def _base(layout: DataLayout) -> Path:
    folder = layout.root / layout.image_folder
    return folder if folder.is_dir() else layout.root
