"""The retrieval setting: the knobs that turn embeddings into ranked individuals, and every combination of them.

Knows the names of votes and views. Knows no vectors.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from whale_ray.errors import InputError
from whale_ray.retrieval.ranking import VOTES, check_vote

FLIPS = ("none", "average")


@dataclass(frozen=True)
class RetrievalSetting:
    """How embeddings become ranked individuals; never retrained.

    neighbours: k, None where the vote has none. temperature: of the softmax vote. flip: `average` adds the mirrored
    view to the plain one.

    Raises: InputError where these do not go together.
    """

    vote: str = "nearest"
    neighbours: int | None = None
    temperature: float = 0.05
    flip: str = "none"

    def __post_init__(self) -> None:
        check_vote(self.vote, neighbours=self.neighbours, temperature=self.temperature)
        if self.flip not in FLIPS:
            raise InputError(f"flip is one of {', '.join(FLIPS)}, but got {self.flip!r}. Name one of them")


def distinct_settings(
    *, vote: Sequence[str], neighbours: Sequence[int], temperature: Sequence[float], flip: Sequence[str]
) -> list[RetrievalSetting]:
    """Every setting these values make, the first values first, none twice: k and temperature only where they count.

    >>> settings = distinct_settings(vote=["nearest", "majority"], neighbours=[1, 3], temperature=[0.05], flip=["none"])
    >>> [(setting.vote, setting.neighbours) for setting in settings]
    [('nearest', None), ('majority', 1), ('majority', 3)]
    """
    default = RetrievalSetting().temperature
    settings: dict[RetrievalSetting, None] = {}
    for name, k, warmth, view in itertools.product(vote, neighbours, temperature, flip):
        known = VOTES.get(name, VOTES["nearest"])
        counted = k if known.counts_neighbours else None
        settings[RetrievalSetting(name, counted, warmth if known.has_temperature else default, view)] = None
    return list(settings)
