"""The retrieval setting: the knobs that turn embeddings into ranked individuals, and every combination of them.

Knows the names of votes and views. Knows no vectors.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from whale_ray.errors import InputError
from whale_ray.retrieval.ranking import VOTES, check_vote
from whale_ray.retrieval.whitening import WHITENINGS

FLIPS = ("none", "average")


@dataclass(frozen=True)
class View:
    """What a setting makes of an encoder's vectors before they are searched."""

    flip: str = "none"
    whiten: str = "none"
    whitened_size: int | None = None


@dataclass(frozen=True)
class RetrievalSetting:
    """How embeddings become ranked individuals; never retrained.

    neighbours: k, None where the vote has none. temperature: of the softmax vote. flip: `average` adds the mirrored
    view to the plain one. whiten: `pca` or `learned` maps the vectors first, to `whitened_size` dimensions (None: all).

    Raises: InputError where these do not go together.
    """

    vote: str = "nearest"
    neighbours: int | None = None
    temperature: float = 0.05
    flip: str = "none"
    whiten: str = "none"
    whitened_size: int | None = None

    def __post_init__(self) -> None:
        check_vote(self.vote, neighbours=self.neighbours, temperature=self.temperature)
        if self.flip not in FLIPS:
            raise InputError(f"flip is one of {', '.join(FLIPS)}, but got {self.flip!r}. Name one of them")
        if self.whiten not in WHITENINGS:
            raise InputError(f"whiten is one of {', '.join(WHITENINGS)}, but got {self.whiten!r}. Name one of them")

    @property
    def view(self) -> View:
        """What is searched."""
        return View(self.flip, self.whiten, self.whitened_size)


SETTING_FIELDS = tuple(field.name for field in fields(RetrievalSetting))


def setting_of(result: Mapping[str, Any]) -> RetrievalSetting:
    """The setting that a trial's result says was chosen."""
    return RetrievalSetting(**{name: result[name] for name in SETTING_FIELDS if name in result})


def distinct_settings(
    *,
    vote: Sequence[str],
    neighbours: Sequence[int],
    temperature: Sequence[float],
    flip: Sequence[str],
    whiten: Sequence[str] = ("none",),
    whitened_size: Sequence[int | None] = (None,),
) -> list[RetrievalSetting]:
    """Every setting these values make, the first values first, none twice: each only where it counts.

    >>> settings = distinct_settings(vote=["nearest", "majority"], neighbours=[1, 3], temperature=[0.05], flip=["none"])
    >>> [(setting.vote, setting.neighbours) for setting in settings]
    [('nearest', None), ('majority', 1), ('majority', 3)]
    """
    default = RetrievalSetting().temperature
    settings: dict[RetrievalSetting, None] = {}
    every = itertools.product(vote, neighbours, temperature, flip, whiten, whitened_size)
    for name, k, warmth, mirrored, white, size in every:
        known = VOTES.get(name, VOTES["nearest"])
        counted = k if known.counts_neighbours else None
        warmth = warmth if known.has_temperature else default
        size = None if white == "none" else size
        settings[RetrievalSetting(name, counted, warmth, mirrored, white, size)] = None
    return list(settings)
