"""Successive halving without waiting (ASHA; Li et al., MLSys 2020): which trial may go on.

Knows curves, as amounts of a resource and scores; knows no trial's folder and no Ray.
"""

from __future__ import annotations

import math
from collections import defaultdict


class Halving:
    """The rungs of each family of trials: at each, the best 1 of `reduction_factor` so far may go on.

    Trials are compared within their family alone: small encoders learn fast, which says nothing of a large one.
    grace: the resource (epochs or seconds) at the first rung; each further rung is `reduction_factor` times as far.

    >>> halving = Halving(grace=1, reduction_factor=2)
    >>> [halving.goes_on("tiny", trial, resource=1, score=score) for trial, score in zip("abc", (5, 4, 6))]
    [True, False, True]
    >>> halving.goes_on("resnet18", "d", resource=1, score=0.1)
    True
    """

    def __init__(self, *, grace: float, reduction_factor: int) -> None:
        self._grace, self._factor = grace, reduction_factor
        self._rungs: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
        self._reached: dict[str, int] = {}

    def goes_on(self, family: str, trial: str, *, resource: float, score: float) -> bool:
        """Whether a trial may go on after this score. Only the highest rung that is newly reached takes the score.

        A score that comes late, after a pause in evaluation or a resume, is so never held against early ones.
        """
        rung = self._rung(resource)
        if rung <= self._reached.get(trial, -1):
            return True
        self._reached[trial] = rung
        scores = self._rungs[family, rung]
        scores[trial] = score
        places = math.ceil(len(scores) / self._factor)
        return score >= sorted(scores.values(), reverse=True)[places - 1]

    def _rung(self, resource: float) -> int:
        """The highest rung at or below the resource; -1 below the first."""
        rung = -1
        while resource >= self._grace * self._factor ** (rung + 1):
            rung += 1
        return rung
