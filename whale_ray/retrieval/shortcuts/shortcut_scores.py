"""Recall@1 of an encoder on whole photographs, on the animal alone and on the background alone, on the same queries.

A recognizer can learn the place instead of the animal (shortcut learning: Geirhos et al., Nature Machine Intelligence
2020). Queries and gallery are seen in the same way, so that the score is what the encoder can tell from this part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from whale_ray.retrieval.evaluation.query_clusters import bootstrap_interval, has_enough_clusters, nan_to_none

WHOLE, ANIMAL, BACKGROUND = PARTS = ("whole", "animal", "background")
MARGIN = 0.05
"""Recall above chance that the background must exceed beyond noise to be flagged."""
SHARE = 0.3
"""Share of the recall above chance on whole photographs that the background alone must reach to be flagged."""
FEWEST_QUERIES = 20


@dataclass(frozen=True)
class ShortcutScores:
    """Recall@1 by part of the photograph.

    Attributes:
        queries: Number of queries.
        gallery: Number of gallery photographs.
        recall: Recall@1 by part, 0 to 1.
        intervals: 95 % interval of each, (None, None) with too few individuals.
        above_chance: Background minus chance, with its interval: value, low, high.
        below_animal: Animal minus background on the same queries, with its paired interval: value, low, high.
        chance: Expected recall@1 of a gallery in random order.
        share: Background above chance divided by the whole above chance; None if the whole is not above chance.
        flagged: The encoder recognizes the background; None with too few queries.
    """

    queries: int
    gallery: int
    recall: dict[str, float]
    intervals: dict[str, tuple[float | None, float | None]]
    above_chance: tuple[float, float | None, float | None]
    below_animal: tuple[float, float | None, float | None]
    chance: float
    share: float | None
    flagged: bool | None


def shortcut_scores(
    vectors: Mapping[str, np.ndarray],
    *,
    individuals: np.ndarray,
    groups: np.ndarray,
    is_query: np.ndarray,
    seed: int = 0,
) -> ShortcutScores | None:
    """Return the recall of each part; None if no query has an answer in the gallery.

    A photograph does not answer a query of the same group: photographs of one encounter share their background.

    Args:
        vectors: Unit vectors of N photographs by part (`whole`, `animal`, `background`), each of shape (N, D).
        individuals: Shape (N,).
        groups: Encounter of each photograph, shape (N,); "" for none.
        is_query: bool, shape (N,). The other photographs are the gallery.
        seed: Seed of the intervals.
    """
    queries, gallery = np.flatnonzero(is_query), np.flatnonzero(~is_query)
    together = (groups[queries][:, None] == groups[gallery]) & (groups[queries] != "")[:, None]
    right = (individuals[queries][:, None] == individuals[gallery]) & ~together
    asked = right.any(axis=1)
    if not asked.any():
        return None
    queries, right, allowed = queries[asked], right[asked], ~together[asked]
    hits = np.stack([_hits(vectors[part], queries, gallery, right, allowed) for part in PARTS], axis=1)
    chances = right.sum(axis=1) / allowed.sum(axis=1)
    whole, animal, background = hits.T
    values = np.column_stack([hits, background - chances, animal - background])
    low, high = bootstrap_interval(values, np.ones(values.shape, dtype=bool), individuals[queries], seed=seed)
    ends = [(nan_to_none(one), nan_to_none(other)) for one, other in zip(low, high, strict=True)]
    means, chance = values.mean(axis=0), float(chances.mean())
    gain = whole.mean() - chance
    share = float(means[3] / gain) if gain > 0 else None
    return ShortcutScores(
        queries=len(queries),
        gallery=len(gallery),
        recall={part: float(value) for part, value in zip(PARTS, means, strict=False)},
        intervals=dict(zip(PARTS, ends, strict=False)),
        above_chance=(float(means[3]), *ends[3]),
        below_animal=(float(means[4]), *ends[4]),
        chance=chance,
        share=share,
        flagged=_is_flagged(len(queries), len(np.unique(individuals[queries])), ends[3][0], share),
    )


def _hits(
    vectors: np.ndarray, queries: np.ndarray, gallery: np.ndarray, right: np.ndarray, allowed: np.ndarray
) -> np.ndarray:
    """Return whether the nearest allowed photograph of each query is right, as 0 or 1; ties count in part."""
    cosines = np.where(allowed, vectors[queries] @ vectors[gallery].T, -np.inf)
    nearest = cosines >= cosines.max(axis=1, keepdims=True)
    return np.asarray((nearest & right).sum(axis=1) / nearest.sum(axis=1))


def _is_flagged(queries: int, individuals: int, low: float | None, share: float | None) -> bool | None:
    if queries < FEWEST_QUERIES or not has_enough_clusters(individuals) or low is None:
        return None
    return low > MARGIN and (share is None or share >= SHARE)
