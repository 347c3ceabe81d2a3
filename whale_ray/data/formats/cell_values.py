"""Values in the cells of tables and JSON files: boxes and unknown individuals."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from whale_ray.data.image_io import Box

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_MISSING = {"", "nan", "none", "null", "na", "nat"}
_UNKNOWN = {"", "unknown", "____"}  # of wildlife-datasets and of Wildbook's image analysis


def is_missing(text: str) -> bool:
    """Return whether a cell has no value, as pandas writes it."""
    return text.strip().casefold() in _MISSING


def is_unknown(name: str) -> bool:
    """Return whether a name marks an unknown individual in wildlife-datasets or Wildbook."""
    return name.strip().casefold() in _UNKNOWN


def parse_bbox_cell(text: str) -> Box | None:
    """Return the box in a cell such as `[10, 20, 300, 200]`: x, y, width, height become x0, y0, x1, y1.

    Returns:
        The box in pixels; None for an empty cell.

    Raises:
        ValueError: If the cell is no box; the message is the second half of a sentence.
    """
    if is_missing(text):
        return None
    if re.search(r"[^\d\s\[\](),.eE+-]", text):
        raise ValueError(f"is {text!r}")
    return box_of_sides([float(number) for number in _NUMBER.findall(text)])


def box_of_sides(sides: Sequence[object]) -> Box:
    """Return x0, y0, x1, y1 of x, y, width, height.

    Raises:
        ValueError: If there are not four finite numbers, or width or height is not positive.
    """
    numbers = [float(side) for side in sides if isinstance(side, int | float) and not isinstance(side, bool)]
    if len(numbers) != 4 or len(sides) != 4 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"is {list(sides)!r}")
    x, y, width, height = numbers
    if width <= 0 or height <= 0:
        raise ValueError(f"has width {width:g} and height {height:g}")
    return x, y, x + width, y + height


def box_columns(boxes: Sequence[Box | None]) -> dict[str, list[float]]:
    """Return the columns x0, y0, x1, y1 of boxes, NaN for None."""
    sides = [(math.nan,) * 4 if box is None else box for box in boxes]
    return {name: [float(side[place]) for side in sides] for place, name in enumerate(("x0", "y0", "x1", "y1"))}
