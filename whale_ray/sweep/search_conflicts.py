"""What a sweep's search and split forbid each other.

Knows settings that are right by themselves (`reading`).
"""

from __future__ import annotations

from collections.abc import Callable

from whale_ray.errors import InputError
from whale_ray.sweep.reading import Reading
from whale_ray.sweep.reference import SPEED, section_settings


def _check_grid(reading: Reading) -> None:
    strategy = reading.fixed.get("search.strategy")
    if strategy == "grid":
        for axis in reading.axes:
            if axis.listed() is None:
                remedy = "Write a list, give the range a step, or take strategy: random or optuna."
                reading.fault(axis.name, f"a grid has no place for the range of `{axis.name}` without a step. {remedy}")
        if "search.trials" in reading.places:
            message = "`search.trials` has no meaning in a grid, which runs every combination."
            reading.fault("search.trials", f"{message} Leave it out, or take strategy: random or optuna.")
    elif strategy in ("random", "optuna") and not reading.axes and not reading.faults:
        message = f"`strategy: {strategy}` needs an axis, but every setting has one value."
        reading.fault("search.strategy", f"{message} Write a list or a range somewhere, or take strategy: grid.")


def _check_screen(reading: Reading) -> None:
    if reading.fixed.get("search.strategy") != "screen":
        return
    for axis in reading.axes:
        if axis.when is not None:
            message = (
                f"a screen crosses all its axes, but `{axis.name}` exists only where {axis.when[0]} is {axis.when[1]}"
            )
            reading.fault(axis.name, f"{message}. Give it one value, or take another strategy.")
        elif axis.values is None or len(axis.values) != 2:
            came = "a range" if axis.values is None else f"{len(axis.values)} value{'s' * (len(axis.values) != 1)}"
            remedy = "Write a list of two, or one value, or take another strategy."
            reading.fault(
                axis.name, f"an axis of a screen has exactly two values, but `{axis.name}` has {came}. {remedy}"
            )
    if len(reading.axes) < 2 and not reading.faults:
        message = f"a screen needs two axes at least, but there is {len(reading.axes) or 'none'}."
        reading.fault("search.strategy", f"{message} Write lists of two values, or take strategy: grid.")
    if reading.fixed.get("search.scheduler") == "asha":
        message = "a screen compares trials that have all ended, but `scheduler: asha` stops some."
        reading.fault("search.scheduler", f"{message} Leave the scheduler out.")
    if not reading.faults:
        from whale_ray.sweep.screening import screen

        try:
            screen(len(reading.axes), int(reading.fixed["search.trials"]))
        except InputError as error:
            reading.fault("search.trials", f"{error}.")


def _check_objectives(reading: Reading) -> None:
    objective, also, prefer = (reading.fixed.get(f"search.{key}") for key in ("objective", "also", "prefer"))
    if prefer not in (None, "none", objective, also):
        asked = objective if also == "none" else f"{objective} and {also}"
        message = f"`search.prefer` names one of the objectives, but these are {asked} and it is {prefer}."
        reading.fault("search.prefer", f"{message} Write `objective: [{objective}, {SPEED}]`, or leave prefer out.")
    if also not in (None, "none") and reading.fixed.get("search.scheduler") == "asha":
        message = "`scheduler: asha` stops trials by one objective, but there are two."
        reading.fault("search.scheduler", f"{message} Leave the scheduler out, or the second objective.")


def _check_split(reading: Reading) -> None:
    kind = reading.fixed.get("split.kind")
    folds = section_settings("split")["folds"].default
    if kind != "kfold" and reading.fixed.get("split.folds", folds) != folds:
        message = f"`split.folds` is of `kfold`, but the split is {kind}."
        reading.fault("split.folds", f"{message} Write `split: {{kfold: 5}}`, or leave folds out.")
    if kind == "by_group" and reading.fixed.get("data.group_column", "") is None:
        message = "`split: by_group` keeps encounters or days whole, but data.group_column names no column of them."
        reading.fault("split.kind", f"{message} Name it, or take another split.")
    if kind == "kfold" and reading.fixed.get("search.scheduler") == "asha":
        message = "`scheduler: asha` compares the curve of one training, but a trial of `split: kfold` has several."
        reading.fault("search.scheduler", f"{message} Leave the scheduler out, or take `split: stratified`.")


def _check_ensemble(reading: Reading) -> None:
    if reading.fixed.get("search.ensemble") == 1:
        message = "`search.ensemble` joins the embeddings of two trials or more, but is 1."
        reading.fault("search.ensemble", f"{message} Write a larger number, or 0 for no ensemble.")


CHECKS: tuple[Callable[[Reading], None], ...] = (
    _check_grid,
    _check_screen,
    _check_objectives,
    _check_split,
    _check_ensemble,
)
