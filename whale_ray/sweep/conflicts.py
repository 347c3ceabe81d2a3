"""What settings of one sweep forbid each other, found before anything starts.

Knows settings that are right by themselves (`reading`), and the losses that can take negatives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from whale_ray.errors import InputError
from whale_ray.learning.losses import ACCEPTS_NEGATIVES, ORDERED, PAIR_LOSSES
from whale_ray.learning.proxies import PROXY_LOSSES
from whale_ray.sweep.reading import Reading
from whale_ray.sweep.reference import NO_LOSS, SPEED, section_settings


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
        message = "`train.pseudo_labels` guesses who is on photographs that `new_whale: negative` trains to be nobody."
        reading.fault("train.pseudo_labels", f"{message} Take `new_whale: ignore`, or leave it out.")
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
    if "trunk" in reading.possible("model.freeze"):
        message = "`train.head_epochs` is for a trunk that is trained afterwards, but got `freeze: trunk`."
        reading.fault("train.head_epochs", f"{message} Leave one of the two out.")
    if "none" in reading.possible("model.neck") and (lone := set(reading.possible("loss.name")) & PAIR_LOSSES):
        message = "`train.head_epochs` needs a head or proxies to train"
        came = f"but got `neck: none` and a loss that has no proxies ({_listed(lone)})"
        reading.fault("train.head_epochs", f"{message}, {came}. Take `neck: linear`, or leave it out.")


def _check_memory(reading: Reading) -> None:
    unable = set(reading.possible("loss.name")) - PAIR_LOSSES
    if any(reading.possible("train.memory")) and unable:
        able = _listed(PAIR_LOSSES)
        message = f"`train.memory` is for losses that compare images ({able}), but got {_listed(unable)}"
        reading.fault(
            "train.memory", f"{message}, which compare them with proxies. Leave it out, or take another loss."
        )


def _check_margins(reading: Reading) -> None:
    for loss in ("loss", *(f"loss.{name}" for name in reading.possible("loss.name"))):
        for small, large in ORDERED.items():
            low, high = (reading.possible(f"{loss}.{key}") for key in (small, large))
            if low and high and max(low) > min(high):
                came = f"but got {max(low):g} and {min(high):g}"
                message = f"`{loss}.{small}` must not be larger than `{loss}.{large}`, {came}. Change one of them."
                reading.fault(f"{loss}.{small}", message)


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
    _check_screen,
    _check_negatives,
    _check_negatives_share,
    _check_pseudo,
    _check_order,
    _check_stages,
    _check_memory,
    _check_margins,
    _check_objectives,
    _check_split,
    _check_ensemble,
    _check_untrained,
    _check_scored_images,
)
