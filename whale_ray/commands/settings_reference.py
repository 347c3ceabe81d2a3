"""Settings reference as text: tables of every key and of the parameters of every loss."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, Final

from whale_ray.learning.losses.registry import LOSSES
from whale_ray.sweep.config.fields import Default, Setting, shown
from whale_ray.sweep.config.loss_schema import loss_settings
from whale_ray.sweep.config.schema.all_settings import SETTINGS


def reference_text() -> str:
    """Return the settings reference as tables, at most 110 columns wide."""
    keys = [_row(setting) for setting in SETTINGS]
    losses = [
        (name, key, shown_default(setting), setting.rule())
        for name in LOSSES
        for key, setting in loss_settings(name).items()
    ]
    parts = (
        "axis: may be a list or a range. id: part of a trial's identity (another value, another trial).",
        _table(("key", "default", "axis", "id", "takes; meaning"), keys),
        "The parameters of each loss; every one may be an axis and is part of a trial's identity.",
        _table(("loss", "parameter", "default", "takes"), losses),
    )
    return "\n\n".join(parts)


def shown_default(setting: Setting) -> str:
    """Return the default as YAML writes it; "required" for a setting without one."""
    if setting.default is None:
        return "null"
    return "required" if setting.default is Default.REQUIRED else shown(setting.default).strip("'")


# Rules that are shorter in words than as a list of choices.
_RULES: Final = {
    "search.objective": "recall@K, image_recall@K (K 1 to 32), map@5, map@5_individuals, recall@1_individuals",
    "search.prefer": "an objective, or none",
}


def _row(setting: Setting) -> tuple[str, ...]:
    marks = ("yes" if setting.axis else "", "yes" if setting.identity else "")
    rule = _RULES.get(setting.key) or setting.rule()
    return setting.key, shown_default(setting), *marks, f"{rule}; {setting.meaning}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, width: int = 110) -> str:
    lines = [tuple(head), *map(tuple, rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(head) - 1)]
    available = width - sum(widths) - 2 * len(widths)
    return "\n".join(part for line in lines for part in _lines(line, widths, available))


def _lines(cells: Sequence[Any], widths: Sequence[int], available: int) -> list[str]:
    left = "".join(f"{cell:<{wide}}  " for cell, wide in zip(cells, widths, strict=False))
    first, *rest = textwrap.wrap(cells[-1], available) or [""]
    return [left + first, *(" " * len(left) + more for more in rest)]
