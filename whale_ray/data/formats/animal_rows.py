"""Columns and identifiers of the rows of a catalog: one row is an animal in a photograph."""

from __future__ import annotations

import pandas as pd

from whale_ray.data.image_io import Box

BOX = ("x0", "y0", "x1", "y1")
DETAILS = ("date", "place", "view", "species")
COLUMNS = ("image", "file", "individual", "group", *BOX, *DETAILS)
"""Columns of a catalog.

- `image`: identifier of the row, see `row_ids`.
- `file`: name of the image file below the image folder.
- `individual`: name of the individual, or the label of unknown individuals.
- `group`: encounter; "" if unknown.
- `x0`, `y0`, `x1`, `y1`: box in pixels of the upright image, float64; NaN for the whole image.
- `date`: time of the photograph as ISO 8601 text; "" if unknown.
- `place`: place of the photograph; "" if unknown.
- `view`: side of the animal that is visible, such as left; "" if unknown.
- `species`: species; "" if unknown.
"""


def complete_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with all columns of `COLUMNS`, in that order.

    Missing texts become "", missing boxes NaN. A missing `file` is the `image`, and a missing `image` is computed.

    Args:
        rows: Rows with `individual` and `image` or `file`.
    """
    rows = rows.copy()
    if "file" not in rows:
        rows["file"] = rows["image"]
    for side in BOX:
        rows[side] = pd.to_numeric(rows[side], errors="coerce").astype(float) if side in rows else float("nan")
    for name in ("group", *DETAILS):
        if name not in rows:
            rows[name] = ""
    if "image" not in rows:
        rows["image"] = row_ids(rows)
    return rows[list(COLUMNS)]


def row_ids(rows: pd.DataFrame) -> pd.Series:
    """Return the identifier of each row, object.

    It is the file name where the photograph has one row, or where the row has no box. In a photograph with several rows
    the box follows: `fluke.jpg#10,20,310,220`, with up to six significant digits a side.

    Args:
        rows: Columns `file` and `BOX`.
    """
    several = rows["file"].duplicated(keep=False) & rows[BOX[0]].notna()
    ids = rows["file"].astype(object).copy()
    columns = [rows.loc[several, name] for name in ("file", *BOX)]
    ids[several] = [animal_name(file, (x0, y0, x1, y1)) for file, x0, y0, x1, y1 in zip(*columns, strict=True)]
    return ids


def animal_name(file: str, box: Box) -> str:
    """Return the name of an animal in a photograph of several: file name and box.

    >>> animal_name("fluke.jpg", (10.0, 20.0, 310.5, 220.0))
    'fluke.jpg#10,20,310.5,220'

    Args:
        file: File name of the photograph.
        box: x0, y0, x1, y1 in pixels of the upright image; written with up to six significant digits a side.
    """
    return f"{file}#{box_text(box)}"


def box_text(box: Box) -> str:
    """Return a box as `x0,y0,x1,y1` with up to six significant digits a side."""
    return ",".join(f"{side:.6g}" for side in box)
