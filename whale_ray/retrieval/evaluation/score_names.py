"""Names of the scores: the recall cutoffs and everything that a sweep may maximize. Imports no numpy."""

from __future__ import annotations

from typing import Final

CUTOFFS: Final = (1, 2, 4, 8, 16, 32)
"""The values of K in recall@K and image_recall@K."""

MAP: Final = "map@5"
DECISION_RULES: Final = ("balanced", "cost", MAP)
"""Rules by which an animal is decided as new; `decisions.DecisionRule` explains them."""

RECALLS: Final = tuple(f"recall@{cutoff}" for cutoff in CUTOFFS)
IMAGE_RECALLS: Final = tuple(f"image_recall@{cutoff}" for cutoff in CUTOFFS)
QUERY_SCORES: Final = (*RECALLS, *IMAGE_RECALLS, MAP)
"""Scores averaged over queries."""

_OVER_INDIVIDUALS: Final = "_individuals"
INDIVIDUAL_SCORES: Final = (f"{MAP}{_OVER_INDIVIDUALS}", f"recall@1{_OVER_INDIVIDUALS}")
"""Scores averaged over the queries of each known individual first, then over individuals; without a threshold."""

OBJECTIVES: Final = (*QUERY_SCORES, *INDIVIDUAL_SCORES)
"""The scores that a sweep may maximize."""


def query_score(name: str) -> str:
    """Return the score over queries that corresponds to a score; of a score over queries itself.

    >>> query_score("map@5_individuals"), query_score("recall@4")
    ('map@5', 'recall@4')
    """
    return name.removesuffix(_OVER_INDIVIDUALS)


def averages_individuals(name: str) -> bool:
    """Return whether a score is averaged over individuals; the others are averaged over queries."""
    return name.endswith(_OVER_INDIVIDUALS)
