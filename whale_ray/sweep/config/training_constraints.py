"""Constraints between the settings of encoder, loss and training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from whale_ray.learning.losses.registry import ACCEPTS_NEGATIVES, LOSSES, PAIR_LOSSES
from whale_ray.sweep.config.schema.all_settings import section_settings
from whale_ray.sweep.config.schema.training_settings import NO_LOSS
from whale_ray.sweep.config.settings_reader import Reading
from whale_ray.sweep.config.yaml_nodes import slug


def _check_negatives(reading: Reading) -> None:
    if "negative" not in reading.possible("train.new_whale"):
        return
    unable = [name for name in reading.possible("loss.name") if name not in ACCEPTS_NEGATIVES]
    if unable:
        able = ", ".join(sorted(ACCEPTS_NEGATIVES))
        rule = f"`new_whale: negative` needs a loss that can take negatives ({able})"
        message = f"{rule}, but got {', '.join(unable)}."
        reading.fault("train.new_whale", f"{message} Take `new_whale: ignore`, or another loss.")


def _check_negatives_share(reading: Reading) -> None:
    shares = [share for share in reading.possible("train.negatives_share") if share]
    wants = {"train.new_whale": ("ignore", "negative"), "train.sampler": ("shuffle", "pk")}
    for key, (without, instead) in wants.items():
        if shares and without in reading.possible(key):
            message = f"`train.negatives_share` has no meaning with `{key}: {without}`."
            reading.fault("train.negatives_share", f"{message} Take `{key}: {instead}`, or leave it out.")
    least, most = (reading.possible(f"train.{key}") for key in ("batch_size", "images_per_individual"))
    if shares and least and most and (left := round(min(least) * (1 - max(shares)))) < max(most):
        came = f"a batch of {min(least)} less {max(shares):.0%} has room for {left} of {max(most)}"
        message = f"`train.negatives_share` must leave room for the images of an individual, but {came}."
        reading.fault("train.negatives_share", f"{message} Lower it, or enlarge the batch.")


def _check_pseudo(reading: Reading) -> None:
    asked = any(reading.possible("train.pseudo_labels"))
    if asked and "negative" in reading.possible("train.new_whale"):
        message = "`train.pseudo_labels` labels photographs that `new_whale: negative` trains as negatives."
        reading.fault("train.pseudo_labels", f"{message} Take `new_whale: ignore`, or leave it out.")
    if asked and 0 in reading.possible("train.epochs"):
        message = "`train.pseudo_labels` trains once more, but `epochs: 0` trains nothing."
        reading.fault("train.pseudo_labels", f"{message} Leave it out, or train.")
    default = section_settings("train")["pseudo_epochs"].default
    if not asked and set(reading.possible("train.pseudo_epochs")) - {default}:
        message = "`train.pseudo_epochs` has no meaning without `train.pseudo_labels`."
        reading.fault("train.pseudo_epochs", f"{message} Give that a probability, such as 0.9, or leave both out.")


def _check_order(reading: Reading) -> None:
    pairs = [("train.warmup_epochs", "train.epochs")]
    if set(reading.possible("train.sampler")) - {"shuffle"}:
        pairs.append(("train.images_per_individual", "train.batch_size"))
    if reading.fixed.get("search.scheduler") == "asha" and reading.fixed.get("search.resource") == "epochs":
        pairs.append(("search.grace", "train.epochs"))
    for small, large in pairs:
        least, most = [value for value in reading.possible(large) if value], reading.possible(small)
        if least and most and max(most) > min(least):
            came = f"but got {max(most)} and {min(least)}"
            name = small if small in reading.places else large
            reading.fault(name, f"`{small}` must not be larger than `{large}`, {came}. Change one of them.")


def _check_stages(reading: Reading) -> None:
    stages = [value for value in reading.possible("train.head_epochs") if value]
    if not stages:
        return
    if max(stages) >= (least := min(reading.possible("train.epochs"), default=max(stages) + 1)):
        message = f"`train.head_epochs` must be smaller than `train.epochs`, but got {max(stages)} and {least}."
        reading.fault("train.head_epochs", f"{message} To train the head alone, write `freeze: trunk`.")
    if any("trunk" in reading.possible(f"{model}.freeze") for model in _models(reading)):
        message = "`train.head_epochs` is for a trunk that is trained afterwards, but got `freeze: trunk`."
        reading.fault("train.head_epochs", f"{message} Leave one of the two out.")
    necks = {neck for model in _models(reading) for neck in reading.possible(f"{model}.neck")}
    if "none" in necks and (lone := set(reading.possible("loss.name")) & PAIR_LOSSES):
        message = "`train.head_epochs` needs a head or proxies to train"
        came = f"but got `neck: none` and a loss that has no proxies ({listed(lone)})"
        reading.fault("train.head_epochs", f"{message}, {came}. Take `neck: linear`, or leave it out.")


def _check_memory(reading: Reading) -> None:
    unable = set(reading.possible("loss.name")) - PAIR_LOSSES
    if any(reading.possible("train.memory")) and unable:
        able = listed(PAIR_LOSSES)
        message = f"`train.memory` is for losses that compare images ({able}), but got {listed(unable)}"
        reading.fault(
            "train.memory", f"{message}, which compare them with proxies. Leave it out, or take another loss."
        )


def _check_margins(reading: Reading) -> None:
    ordered = [pair for entry in LOSSES.values() for pair in entry.ordered]
    for loss in _homes(reading, "loss", "name"):
        for small, large in ordered:
            low, high = (reading.possible(f"{loss}.{key}") for key in (small, large))
            if low and high and max(low) > min(high):
                came = f"but got {max(low):g} and {min(high):g}"
                message = f"`{loss}.{small}` must not be larger than `{loss}.{large}`, {came}. Change one of them."
                reading.fault(f"{loss}.{small}", message)


def _check_keep(reading: Reading) -> None:
    if "best" not in reading.possible("train.keep"):
        return
    again = {"split: kfold": reading.fixed.get("split.kind") == "kfold"}
    again["bundle.retrain_on_all"] = bool(reading.fixed.get("bundle.retrain_on_all"))
    for name in (name for name, is_asked in again.items() if is_asked):
        message = f"`train.keep: best` chooses an epoch by validation, but the bundle of `{name}` has none."
        reading.fault("train.keep", f"{message} Take `keep: last`, so that what is scored is what is served.")


def _check_untrained(reading: Reading) -> None:
    epochs, losses = (set(reading.possible(name)) for name in ("train.epochs", "loss.name"))
    if epochs and losses and (0 in epochs or NO_LOSS in losses) and (epochs, losses) != ({0}, {NO_LOSS}):
        rule = f"`epochs: 0` trains nothing and goes with `loss: {{name: {NO_LOSS}}}` alone, and that with it"
        came = f"epochs {listed(epochs)} and loss {listed(losses)}"
        reading.fault(
            "train.epochs", f"{rule}, but got {came}. Put what trains and what does not into two sweep files."
        )
    for model in _models(reading):
        if 0 in epochs and (necks := set(reading.possible(f"{model}.neck")) - {"none"}):
            message = f"`epochs: 0` leaves a neck at its random initial weights, but got {model}.neck {listed(necks)}."
            reading.fault("train.epochs", f"{message} Write `neck: none, embedding_size: null`.")
        if "none" in reading.possible(f"{model}.neck") and set(reading.possible(f"{model}.embedding_size")) - {None}:
            message = "`neck: none` returns the features of the trunk, so that their number cannot be chosen."
            remedy = "Write `embedding_size: null`, or choose neck linear or bnneck."
            reading.fault(f"{model}.neck", f"{message} {remedy}")


def _models(reading: Reading) -> list[str]:
    return _homes(reading, "model", "encoder")


def _homes(reading: Reading, section: str, selector: str) -> list[str]:
    """Return the prefixes of a section's keys: its name, and one per alternative."""
    return [section, *(f"{section}.{slug(str(name))}" for name in reading.possible(f"{section}.{selector}"))]


def listed(values: Iterable[Any]) -> str:
    """Return the sorted values as text for a message."""
    return ", ".join(sorted(map(str, values)))


CHECKS: tuple[Callable[[Reading], None], ...] = (
    _check_negatives,
    _check_negatives_share,
    _check_pseudo,
    _check_order,
    _check_stages,
    _check_memory,
    _check_margins,
    _check_keep,
    _check_untrained,
)
