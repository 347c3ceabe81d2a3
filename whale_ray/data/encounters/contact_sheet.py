"""Contact sheet of encounters: one row of thumbnails for each."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image, ImageDraw

from whale_ray.data.decoding.thumbnails import StoredThumbnails

MAX_ENCOUNTERS = 40
MAX_PHOTOGRAPHS = 8
_CELL, _GAP, _LABEL = 96, 4, 14  # pixels


def draw_contact_sheet(encounters: Sequence[tuple[str, Sequence[bytes]]]) -> Image.Image:
    """Return a picture with the thumbnails of encounters, one encounter a row.

    Args:
        encounters: Label and thumbnails (JPEG) of each encounter. The first `MAX_ENCOUNTERS` are drawn, with at
            most `MAX_PHOTOGRAPHS` thumbnails each.
    """
    shown = encounters[:MAX_ENCOUNTERS]
    width = max((min(len(thumbnails), MAX_PHOTOGRAPHS) for _, thumbnails in shown), default=1)
    step = _CELL + _LABEL + _GAP
    sheet = Image.new("RGB", (max(width, 3) * (_CELL + _GAP) + _GAP, len(shown) * step + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (label, thumbnails) in enumerate(shown):
        top = row * step + _GAP
        draw.text((_GAP, top), f"{label}: {len(thumbnails)} photographs", fill="black")
        for column, thumbnail in enumerate(thumbnails[:MAX_PHOTOGRAPHS]):
            if thumbnail:
                with Image.open(io.BytesIO(thumbnail)) as picture:
                    picture.thumbnail((_CELL, _CELL))
                    sheet.paste(picture, (_GAP + column * (_CELL + _GAP), top + _LABEL))
    return sheet


def write_contact_sheet(
    path: Path, images: pd.Series, encounters: Sequence[Mapping[str, Any]], thumbnails: StoredThumbnails | None
) -> None:
    """Write the contact sheet of encounters as JPEG.

    Args:
        path: The file.
        images: Image of each row of the catalog.
        encounters: Individual and images of each, as `list_encounters` returns them, the largest first.
        thumbnails: Thumbnails by row; None draws the labels alone.
    """
    rows = {image: row for row, image in enumerate(images)}
    shown = [
        (str(one["individual"]), [thumbnails[rows[image]] if thumbnails else b"" for image in one["images"]])
        for one in encounters[:MAX_ENCOUNTERS]
    ]
    draw_contact_sheet(shown).save(path, "JPEG", quality=80)
