"""Which trials may stand in one leaderboard: those that were scored on the same photographs and queries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from whale_ray.errors import InputError
from whale_ray.sweep.leaderboard import Record
from whale_ray.sweep.plan import Settings


def refuse_others(records: Sequence[Record], settings: Settings, *, fingerprint: str, folder: Path) -> None:
    """Raises InputError where a trial of the run folder was scored on something else, with what has changed.

    settings: those of any trial of the sweep. fingerprint: of its photographs and labels.
    """
    now = measured_on(settings, fingerprint)
    before = {one.trial: measured_on(one.settings, one.data_fingerprint) for one in records}
    others = [trial for trial, then in before.items() if then != now]
    if others:
        then = before[others[0]]
        changed = "; ".join(f"{what} was {then[what]} and is {now[what]}" for what in now if then[what] != now[what])
        raise InputError(
            f"the trials of a run folder must be scored on the same photographs and split, but {len(others)} of "
            f"{folder} were scored on others ({', '.join(others[:3])}): {changed}. Say --fresh, which moves that "
            "folder aside, or give the sweep another name"
        )


def measured_on(settings: Settings, fingerprint: str) -> dict[str, Any]:
    """What a trial's scores were measured on, by name."""
    data, split = settings["data"], settings["split"]
    return {
        "the fingerprint of photographs and labels": fingerprint,
        "data.unknown_label": data["unknown_label"],
        "data.val_fraction": data["val_fraction"],
        "split.kind": split["kind"],
        "split.folds": split.get("folds", 5) if split["kind"] == "kfold" else None,
        "split.share": split.get("share", 0.1),
        "split.seed": split["seed"],
    }
