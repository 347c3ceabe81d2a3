"""What settings of one sweep forbid each other, found before anything starts.

Knows settings that are right by themselves (`reading`), and the losses that can take negatives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from whale_ray.learning.losses import ACCEPTS_NEGATIVES
from whale_ray.learning.proxies import PROXY_LOSSES
from whale_ray.sweep.reading import Reading
from whale_ray.sweep.reference import NO_LOSS, SPEED


def find_conflicts(reading: Reading) -> None:
    """Adds a fault for each pair of settings that cannot go together."""
    for check in CHECKS:
        check(reading)


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
    elif strategy and not reading.axes and not reading.faults:
        message = f"`strategy: {strategy}` needs an axis, but every setting has one value."
        reading.fault("search.strategy", f"{message} Write a list or a range somewhere, or take strategy: grid.")


def _check_negatives(reading: Reading) -> None:
    if "negative" not in reading.possible("train.new_whale"):
        return
    unable = [name for name in reading.possible("loss.name") if name not in ACCEPTS_NEGATIVES]
    if unable:
        able = ", ".join(sorted(ACCEPTS_NEGATIVES))
        rule = f"`new_whale: negative` needs a loss that can take negatives ({able})"
        message = f"{rule}, but got {', '.join(unable)}."
        reading.fault("train.new_whale", f"{message} Take `new_whale: ignore`, or another loss.")


def _check_order(reading: Reading) -> None:
    pairs = [("train.warmup_epochs", "train.epochs")]
    if "pk" in reading.possible("train.sampler"):
        pairs.append(("train.images_per_individual", "train.batch_size"))
    if reading.fixed.get("search.scheduler") == "asha" and reading.fixed.get("search.resource") == "epochs":
        pairs.append(("search.grace", "train.epochs"))
    for small, large in pairs:
        least, most = [value for value in reading.possible(large) if value], reading.possible(small)
        if least and most and max(most) > min(least):
            came = f"but got {max(most)} and {min(least)}"
            name = small if small in reading.places else large
            reading.fault(name, f"`{small}` must not be larger than `{large}`, {came}. Change one of them.")


def _check_objectives(reading: Reading) -> None:
    objective, also, prefer = (reading.fixed.get(f"search.{key}") for key in ("objective", "also", "prefer"))
    if prefer not in (None, "none", objective, also):
        asked = objective if also == "none" else f"{objective} and {also}"
        message = f"`search.prefer` names one of the objectives, but these are {asked} and it is {prefer}."
        reading.fault("search.prefer", f"{message} Write `objective: [{objective}, {SPEED}]`, or leave prefer out.")
    if also not in (None, "none") and reading.fixed.get("search.scheduler") == "asha":
        message = "`scheduler: asha` stops trials by one objective, but there are two."
        reading.fault("search.scheduler", f"{message} Leave the scheduler out, or the second objective.")


def _check_untrained(reading: Reading) -> None:
    epochs, losses = (set(reading.possible(name)) for name in ("train.epochs", "loss.name"))
    if epochs and losses and (0 in epochs or NO_LOSS in losses) and (epochs, losses) != ({0}, {NO_LOSS}):
        rule = f"`epochs: 0` trains nothing and goes with `loss: {{name: {NO_LOSS}}}` alone, and that with it"
        came = f"epochs {_listed(epochs)} and loss {_listed(losses)}"
        reading.fault(
            "train.epochs", f"{rule}, but got {came}. Put what trains and what does not into two sweep files."
        )
    if 0 in epochs and (necks := set(reading.possible("model.neck")) - {"none"}):
        message = f"`epochs: 0` leaves a neck as it was drawn, at random, but got neck {_listed(necks)}."
        reading.fault("train.epochs", f"{message} Write `neck: none, embedding_size: null`.")
    if "none" in reading.possible("model.neck") and set(reading.possible("model.embedding_size")) - {None}:
        message = "`neck: none` gives the features of the trunk as they come, so that their number cannot be chosen."
        reading.fault("model.neck", f"{message} Write `embedding_size: null`, or choose neck linear or bnneck.")


def _check_scored_images(reading: Reading) -> None:
    asked = {
        "rerank: k_reciprocal": "k_reciprocal" in reading.retrieval.get("rerank", ()),
        "classifier_weight": any(reading.retrieval.get("classifier_weight", ())),
    }
    for written in (name for name, is_asked in asked.items() if is_asked):
        key = written.partition(":")[0]
        if reading.retrieval.get("vote") == ("centroid",):
            message = f"`{written}` scores images, but the vote centroid looks at none."
            reading.fault(f"retrieval.{key}", f"{message} Leave it out, or give another vote beside it.")
    losses = reading.possible("loss.name")
    if asked["classifier_weight"] and losses and not set(losses) & set(PROXY_LOSSES):
        message = (
            f"`classifier_weight` needs a loss with proxies ({', '.join(PROXY_LOSSES)}), but got {_listed(losses)}."
        )
        reading.fault("retrieval.classifier_weight", f"{message} Leave it out, or take another loss.")


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(sorted(map(str, values)))


CHECKS: tuple[Callable[[Reading], None], ...] = (
    _check_grid,
    _check_negatives,
    _check_order,
    _check_objectives,
    _check_untrained,
    _check_scored_images,
)
