"""Conditions under which the keys of a sweep file have an effect."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from whale_ray.retrieval.search.retrieval_options import RETRIEVAL_OPTIONS, Condition

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
"""Condition by key; a key that ends with a dot stands for the whole section."""

NEVER_REFUSED: Final = ("retrieval.neighbours",)
"""Keys that may have several values without effect: run folders of earlier versions hold such sweep files."""


def conditions_of(key: str) -> list[Condition]:
    """Return the conditions of a key and of its section."""
    section = f"{key.partition('.')[0]}."
    return [CONDITIONS[name] for name in (section, key) if name in CONDITIONS]
