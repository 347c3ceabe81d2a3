"""Check that a pair loss can have positives: two photographs of one individual in a batch."""

from __future__ import annotations

from typing import Any

import numpy as np

from whale_ray.errors import InputError
from whale_ray.learning.losses.registry import PAIR_LOSSES
from whale_ray.sweep.config.sweep_spec import Sweep
from whale_ray.sweep.planning.dataset import Dataset
from whale_ray.sweep.planning.trial_points import corner_points

_DECIDING = ("loss.name", "train.sampler", "train.images_per_individual", "train.memory")


def check_positives(sweep: Sweep, dataset: Dataset) -> None:
    """Raise InputError if a trial of the sweep has a pair loss that cannot have a positive pair on these photographs.

    Args:
        sweep: The sweep.
        dataset: The photographs.
    """
    most = min(_most_photographs(one) for one in dataset.splits)
    for point in corner_points(sweep, *_DECIDING):
        settings = sweep.settings(point)
        loss, train = settings["loss"]["name"], settings["train"]
        if loss in PAIR_LOSSES and train["epochs"] and (reason := missing_positives(train, most=most)):
            raise InputError(
                f"the loss {loss} compares two photographs of one individual, but {reason}: no batch can hold such a "
                "pair. Take `train.sampler: pk` with `train.images_per_individual` of 2 or more, or a loss with proxies"
            )


def missing_positives(train: dict[str, Any], *, most: int) -> str:
    """Return why no batch can have a positive pair; empty if one can, or a memory may hold one.

    Args:
        train: The `train` settings.
        most: Training photographs of the individual that has most of them.
    """
    repeats = train["sampler"] != "shuffle" and train["images_per_individual"] > 1
    if train["memory"] or repeats or train["sampler"] == "balanced":
        return ""
    return "" if most > 1 else f"every individual has one training photograph and `train.sampler` is {train['sampler']}"


def _most_photographs(dataset: Dataset) -> int:
    _, labels, _ = dataset.training_rows(negatives=False)
    return int(np.bincount(labels).max(initial=0))
