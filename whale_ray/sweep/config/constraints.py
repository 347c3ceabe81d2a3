"""Constraints between the settings of search, split and retrieval, checked before a sweep starts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from whale_ray.errors import InputError
from whale_ray.learning.losses.proxy_extraction import PROXY_LOSSES
from whale_ray.retrieval.option_conditions import Condition
from whale_ray.retrieval.search.retrieval_options import RETRIEVAL_OPTIONS
from whale_ray.sweep.config import training_constraints
from whale_ray.sweep.config.schema.all_settings import section_settings
from whale_ray.sweep.config.schema.search_settings import SPEED
from whale_ray.sweep.config.settings_reader import Reading
from whale_ray.sweep.config.training_constraints import listed


def find_conflicts(reading: Reading, *, is_recorded: bool = False) -> None:
    """Add a fault for each combination of settings that is not allowed.

    Args:
        reading: The parsed settings.
        is_recorded: They come from a run folder, so that rules that later versions introduced do not hold.
    """
    for check in (*CHECKS, *training_constraints.CHECKS, _check_scored_images, _check_new_share, check_without_effect):
        check(reading)
    if not is_recorded:
        _check_gpus(reading)


def _check_scored_images(reading: Reading) -> None:
    asked = {"rerank: k_reciprocal": "rerank", "classifier_weight": "classifier_weight"}
    for written, key in asked.items():
        off = section_settings("retrieval")[key].default
        wanted = any(value != off for value in reading.possible(f"retrieval.{key}"))
        if wanted and (without := _values_without_effect(reading, f"retrieval.{key}")):
            message = f"`{written}` scores images, but {without} scores none."
            reading.fault(f"retrieval.{key}", f"{message} Leave it out, or give another vote beside it.")
    losses = reading.possible("loss.name")
    if any(reading.possible("retrieval.classifier_weight")) and losses and not set(losses) & set(PROXY_LOSSES):
        rule = f"`classifier_weight` needs a loss with proxies ({', '.join(PROXY_LOSSES)})"
        message = f"{rule}, but got {listed(losses)}. Leave it out, or take another loss."
        reading.fault("retrieval.classifier_weight", message)


def _check_new_share(reading: Reading) -> None:
    decide = reading.fixed.get("retrieval.decide")
    if reading.fixed.get("retrieval.new_share") is not None and decide != "cost":
        message = f"`new_share` is the share of `decide: cost`, but decide is {decide}. Write cost, or leave it out."
        reading.fault("retrieval.new_share", message)


CONDITIONS: Final[dict[str, Condition]] = {
    "train.": Condition("train.epochs", unless=(0,)),
    "train.layer_decay": Condition("model.freeze", unless=("trunk",)),
    "train.images_per_individual": Condition("train.sampler", unless=("shuffle",)),
    **{
        f"retrieval.{option.name}": replace(option.condition, key=f"retrieval.{option.condition.key}")
        for option in RETRIEVAL_OPTIONS
        if option.condition is not None
    },
}
"""Condition by key; a key that ends with a dot means the whole section."""

NEVER_REFUSED: Final = ("retrieval.neighbours",)
"""Keys that may have several values without effect: run folders of earlier versions hold such sweep files."""


def _conditions_of(key: str) -> list[Condition]:
    """Return the conditions of a key and of its section."""
    section = f"{key.partition('.')[0]}."
    return [CONDITIONS[name] for name in (section, key) if name in CONDITIONS]


_CHECKED_ELSEWHERE = (*NEVER_REFUSED, "retrieval.rerank", "retrieval.classifier_weight")


def check_without_effect(reading: Reading) -> None:
    """Add a fault for each axis without effect, since none of its values could differ."""
    axes = [axis.name for axis in reading.axes]
    axes += [f"retrieval.{name}" for name, values in reading.retrieval.items() if len(values) > 1]
    for name in axes:
        without = "" if name in _CHECKED_ELSEWHERE else _values_without_effect(reading, name)
        if without:
            message = f"`{name}` has several values, but no effect with {without}."
            reading.fault(name, f"{message} Give it one, or leave it out.")


def _values_without_effect(reading: Reading, key: str) -> str:
    """Return the values of another key that all leave a key without effect; empty if it has an effect."""
    for condition in _conditions_of(key):
        values = reading.possible(condition.key)
        if values and not any(condition.holds(value) for value in values):
            short = condition.key.rpartition(".")[2]
            return " and ".join(f"`{short}: {value}`" for value in dict.fromkeys(values))
    return ""


def _check_grid(reading: Reading) -> None:
    strategy = reading.fixed.get("search.strategy")
    if strategy == "grid":
        for axis in reading.axes:
            if axis.listed() is None:
                remedy = "Write a list, give the range a step, or take strategy: random or optuna."
                reading.fault(
                    axis.name, f"a grid cannot list the values of the range `{axis.name}`, which has no step. {remedy}"
                )
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
        message = f"a screen needs two axes at least, but got {len(reading.axes)}."
        reading.fault("search.strategy", f"{message} Write lists of two values, or take strategy: grid.")
    if reading.fixed.get("search.scheduler") == "asha":
        message = "a screen compares trials that have all ended, but `scheduler: asha` stops some."
        reading.fault("search.scheduler", f"{message} Leave the scheduler out.")
    if not reading.faults:
        from whale_ray.sweep.config.screening_design import screen

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
        message = f"`split.folds` belongs to `kfold`, but the split is {kind}."
        reading.fault("split.folds", f"{message} Write `split: {{kfold: 5}}`, or leave folds out.")
    if kind == "kfold" and reading.fixed.get("search.scheduler") == "asha":
        message = "`scheduler: asha` compares the curve of one training, but a trial of `split: kfold` has several."
        reading.fault("search.scheduler", f"{message} Leave the scheduler out, or take `split: stratified`.")


def _check_ensemble(reading: Reading) -> None:
    if reading.fixed.get("search.ensemble") == 1:
        message = "`search.ensemble` joins the embeddings of two trials or more, but is 1."
        reading.fault("search.ensemble", f"{message} Write a larger number, or 0 for no ensemble.")


def _check_gpus(reading: Reading) -> None:
    gpus, workers = reading.fixed.get("resources.gpus", 0.0), reading.fixed.get("resources.workers", 1)
    if gpus > 1:
        message = (
            f"`resources.gpus` must be at most 1, but got {gpus:g}: a process trains on one GPU, the rest would idle."
        )
        remedy = f"For a trial on several GPUs write `resources: {{workers: {math.ceil(gpus)}, gpus: 1}}`."
        reading.fault("resources.gpus", f"{message} {remedy}")
    elif workers > 1 and gpus not in (0, 1):
        message = f"each of {workers} workers of a trial needs a whole GPU or none, but `resources.gpus` is {gpus:g}."
        reading.fault("resources.gpus", f"{message} Write 1 or 0, or leave resources.workers out.")


CHECKS: tuple[Callable[[Reading], None], ...] = (
    _check_grid,
    _check_screen,
    _check_objectives,
    _check_split,
    _check_ensemble,
)
