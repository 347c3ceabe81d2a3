"""Resuming a run folder: refuses trials of other data, and continues shorter trials with more epochs."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from whale_ray.atomic_files import replaced_atomically
from whale_ray.errors import InputError
from whale_ray.sweep.config.loss_schema import completed
from whale_ray.sweep.config.sweep_spec import Sweep, load_sweep
from whale_ray.sweep.planning.trial_points import Settings
from whale_ray.sweep.run_folder.checkpoints import STATES, drop_state
from whale_ray.sweep.run_folder.records import Record, sweep_file, write_result

GROUPING = ("data.group_by", "data.group_linkage")
"""Settings that decide which photographs the split keeps together, and that a run folder keeps."""


def keep_earlier_grouping(sweep: Sweep, folder: Path) -> Sweep:
    """Return the sweep with the grouping of its run folder, so that the trials there keep their split.

    Run folders of versions without `data.group_by` grouped by twins, those without `data.group_linkage` by single
    linkage.

    Args:
        sweep: The sweep.
        folder: Its run folder, which need not exist.
    """
    try:
        recorded = load_sweep(sweep_file(folder), is_recorded=True).fixed
    except InputError:
        return sweep
    return dataclasses.replace(sweep, fixed={**sweep.fixed, **{key: recorded[key] for key in GROUPING}})


def notes_on_grouping(wanted: Sweep, kept: Sweep) -> Iterator[str]:
    """Yield a note for the user for each grouping setting that the run folder keeps against the sweep file.

    Args:
        wanted: The sweep as its file says.
        kept: The sweep as `keep_earlier_grouping` returns it.
    """
    for key in GROUPING if kept.fixed["data.group_by"] == "auto" else GROUPING[:1]:
        value, other = kept.fixed[key], wanted.fixed[key]
        if value != other:
            yield f"{key} stays {value}, by which this run folder was split. For {other}, use --fresh"


def refuse_other_data(records: Sequence[Record], settings: Settings, *, fingerprint: str, folder: Path) -> None:
    """Refuse a run folder with trials that were scored on other photographs or another split.

    Args:
        records: Trials of the run folder.
        settings: Settings of any trial of the sweep.
        fingerprint: Fingerprint of the sweep's photographs and labels.
        folder: Run folder, for the message.

    Raises:
        InputError: Names the trials and what has changed.
    """
    now = scoring_basis(settings, fingerprint)
    before = {one.trial: scoring_basis(one.settings, one.data_fingerprint) for one in records}
    others = [trial for trial, then in before.items() if then != now]
    if others:
        then = before[others[0]]
        changed = "; ".join(f"{what} was {then[what]} and is {now[what]}" for what in now if then[what] != now[what])
        raise InputError(
            f"the trials of a run folder must be scored on the same photographs and split, but {len(others)} of "
            f"{folder} were scored on others ({', '.join(others[:3])}): {changed}. Use --fresh, which moves that "
            "folder aside, or give the sweep another name"
        )


def scoring_basis(settings: Settings, fingerprint: str) -> dict[str, Any]:
    """Return the data, split and scoring settings behind the scores of a trial, by name.

    Args:
        settings: Settings of the trial.
        fingerprint: Fingerprint of its photographs and labels.
    """
    data, split = settings["data"], settings["split"]
    return {
        "the fingerprint of photographs and labels": fingerprint,
        "data.unknown_label": data["unknown_label"],
        "data.group_by": data.get("group_by", "twins"),
        "data.group_linkage": data.get("group_linkage", "single") if data.get("group_by") == "auto" else None,
        "data.val_fraction": data["val_fraction"],
        "split.kind": split["kind"],
        "split.folds": split.get("folds", 5) if split["kind"] == "kfold" else None,
        "split.share": split.get("share", 0.1),
        "split.seed": split["seed"],
    }


CONTINUED = ("epochs.csv", *(f"checkpoint/{name}" for name in STATES))


def can_be_continued(settings: dict[str, Any]) -> bool:
    """Return whether a finished trial keeps its optimizer state, so that a longer trial can continue from it.

    That needs a constant learning rate and no pseudo-labels, which are assigned after the last epoch.
    """
    train = settings["train"]
    return bool(train.get("schedule") == "constant" and not train.get("pseudo_labels"))


def write_end(folder: Path, result: Mapping[str, Any], settings: dict[str, Any] | None) -> None:
    """Write the result of a trial, and drop its training state unless a longer trial can continue from it.

    Args:
        folder: The trial's folder.
        result: Status, scores and chosen retrieval setting.
        settings: Settings of the trial; None if they could not be read.
    """
    write_result(folder, result)
    if settings is None or not can_be_continued(settings):
        drop_state(folder / "checkpoint")


def find_shorter_trial(settings: dict[str, Any], records: Iterable[Record]) -> Record | None:
    """Return the longest finished trial from which a new trial can continue; None if there is none.

    Args:
        settings: Settings of the new trial.
        records: Trials with the same settings but fewer epochs are candidates if they still have their state.
    """
    if not can_be_continued(settings):
        return None
    wanted, same = settings["train"]["epochs"], _but_epochs(settings)
    shorter = [  # few trials keep their state, and a comparison of settings takes longest
        record
        for record in records
        if record.status == "finished"
        and record.settings["train"]["epochs"] < wanted
        and (record.folder / "checkpoint" / STATES[0]).exists()
        and _but_epochs(record.settings) == same
    ]
    return max(shorter, key=lambda record: int(record.settings["train"]["epochs"]), default=None)


def copy_state(shorter: Record, folder: Path) -> None:
    """Copy state and curve of a shorter trial into the folder of a new trial.

    Args:
        shorter: The finished trial.
        folder: Folder of the new trial.
    """
    for name in CONTINUED:
        if (shorter.folder / name).exists():
            with replaced_atomically(folder / name) as draft:
                shutil.copyfile(shorter.folder / name, draft)


def notes_on_epochs(sweep: Sweep, records: Iterable[Record]) -> Iterator[str]:
    """Yield a note for the user if the sweep's number of epochs has changed since its trials were run.

    Args:
        sweep: The sweep as it is now.
        records: Trials of the run folder.
    """
    trained = [record for record in records if record.kind == "trial"]
    before = {record.settings["train"]["epochs"] for record in trained}
    wanted, schedule = sweep.fixed.get("train.epochs"), sweep.fixed.get("train.schedule")
    if wanted is None or schedule is None or not before or wanted in before:
        return
    listed = ", ".join(map(str, sorted(before)))
    if schedule == "constant":
        yield f"train.epochs is {wanted}, after {listed}: trials continue from the checkpoints that are left"
    else:
        yield (
            f"train.epochs is {wanted}, after {listed}: with schedule: {schedule} the number of epochs shapes the "
            "whole training, so these are new trials that start from the beginning (schedule: constant would continue)"
        )


def _but_epochs(settings: dict[str, Any]) -> str:
    whole = completed(settings)
    return json.dumps({**whole, "train": {**whole["train"], "epochs": 0}}, sort_keys=True)
