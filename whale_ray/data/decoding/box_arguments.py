"""Boxes as arguments of commands and HTTP calls: `x0,y0,x1,y1`, and the photographs that they belong to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from whale_ray.data.image_io import Box
from whale_ray.errors import InputError

_Photograph = TypeVar("_Photograph")


def parse_box(text: str) -> Box:
    """Return the box of `x0,y0,x1,y1` in pixels of the upright image.

    >>> parse_box("10, 20.5, 110, 80")
    (10.0, 20.5, 110.0, 80.0)

    Args:
        text: Four numbers with commas between them.

    Raises:
        ValueError: If these are not four finite numbers with x0 < x1 and y0 < y1.
    """
    try:
        x0, y0, x1, y1 = (float(side) for side in text.split(","))
    except ValueError:
        x0 = y0 = x1 = y1 = math.nan
    if not (math.isfinite(x0 + y0 + x1 + y1) and x0 < x1 and y0 < y1):
        raise ValueError(
            f"a box must be x0,y0,x1,y1 in pixels of the upright photograph with x0 < x1 and y0 < y1, but is {text!r}"
        )
    return x0, y0, x1, y1


def format_box(box: Box) -> str:
    """Return a box as `parse_box` reads it.

    >>> format_box((10.0, 20.5, 110.0, 80.0))
    '10.0,20.5,110.0,80.0'
    """
    return ",".join(map(repr, map(float, box)))


def pair_boxes(photographs: Sequence[_Photograph], boxes: Sequence[Box]) -> list[tuple[_Photograph, Box | None]]:
    """Return the animals to identify: each photograph and a box in it, or None for all of it.

    Args:
        photographs: The photographs.
        boxes: Boxes in the only photograph, or one box for each photograph, in their order.

    Raises:
        InputError: If several photographs do not have a box each.
    """
    if not boxes:
        return [(photograph, None) for photograph in photographs]
    if len(photographs) == 1:
        return [(photographs[0], box) for box in boxes]
    if len(boxes) != len(photographs):
        raise InputError(
            f"several photographs must have one box each, but {len(photographs)} photographs have {len(boxes)}. "
            "Send one photograph with its boxes, or a box for every photograph"
        )
    return list(zip(photographs, boxes, strict=True))
