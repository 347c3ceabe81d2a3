"""Votes: how the neighbors of a query become ranked individuals, and where an unknown individual enters the ranking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from whale_ray.errors import InputError
from whale_ray.retrieval.search.neighbor_search import Neighbors
from whale_ray.retrieval.search.retrieval_options import has_effect

NO_CANDIDATE = -1.0
"""First cosine of a query without candidates among others that have some: its animal counts as new."""


@dataclass(frozen=True)
class Ranking:
    """Ranked individuals of Q queries, best first; -1 and NaN pad missing entries.

    Attributes:
        individuals: Codes, shape (Q, R).
        cosines: Largest cosine to each individual, or the largest score of the search mode; compared with the
            threshold. Shape (Q, R).
        images: Gallery row of that cosine, shape (Q, R).
    """

    individuals: np.ndarray
    cosines: np.ndarray
    images: np.ndarray


@dataclass(frozen=True)
class Vote:
    """A way to order individuals.

    Attributes:
        order: Returns the columns of `found.individuals`, best first, that k images move.
        by_centroid: The vote uses class means.
    """

    order: Callable[[Neighbors, int, float], np.ndarray] | None = None
    by_centroid: bool = False


def _order_by_count(found: Neighbors, k: int, temperature: float) -> np.ndarray:
    """Most images first; equals stay as they are, by their largest cosine and then by name."""
    counts = _sum_by_column(found, k)
    order: np.ndarray = np.argsort(-counts, axis=1, kind="stable")
    return order


def _order_by_softmax(found: Neighbors, k: int, temperature: float) -> np.ndarray:
    """Largest sum of exp(cosine / temperature) first, equals by name; the sum is held as a logarithm."""
    individuals, best = found.individuals[:, :k], found.best_cosines[:, :k]
    nearest = np.take_along_axis(found.best_cosines, found.columns[:, :k], axis=1)
    sums = _sum_by_column(found, k, np.exp((found.cosines[:, :k] - nearest) / temperature))
    voted = sums > 0
    score = np.where(voted, np.log(np.where(voted, sums, 1.0)) + np.where(voted, best, 0.0) / temperature, -np.inf)
    names = np.where(voted, individuals, np.arange(individuals.shape[1]))
    order: np.ndarray = np.lexsort((names, -score), axis=1)
    return order


def _sum_by_column(found: Neighbors, k: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Adds up the k nearest images (or their `weights`, (Q, k)) by individual: (Q, min(k, R)).

    The individuals among the k nearest images are always the first columns, since each enters with its nearest image.
    """
    columns = found.columns[:, :k]
    queries, width = len(columns), min(k, found.individuals.shape[1])
    cells = (columns + width * np.arange(queries)[:, None]).ravel()
    sums = np.bincount(cells, None if weights is None else weights.ravel(), minlength=queries * width)
    return sums.reshape(queries, width)


VOTES: dict[str, Vote] = {
    "nearest": Vote(),
    "majority": Vote(_order_by_count),
    "softmax": Vote(_order_by_softmax),
    "centroid": Vote(by_centroid=True),
}


def rank_individuals(
    found: Neighbors, *, vote: str = "nearest", neighbours: int | None = None, temperature: float = 0.05
) -> Ranking:
    """Return the individuals of a search in the order of the vote; the others follow by largest cosine.

    Args:
        found: Result of `find_by_centroid` for the vote `centroid`, else of `find_neighbors` with at least k images.
        vote: A key of `VOTES`.
        neighbours: k of `majority` and `softmax`; more than the gallery holds means all of it.
        temperature: Temperature of `softmax`.

    Raises:
        InputError: If the vote is unknown, or k or temperature is missing or not positive.
    """
    check_vote(vote, neighbours=neighbours, temperature=temperature)
    order = VOTES[vote].order
    ranking = Ranking(found.individuals, found.best_cosines, found.best_indices)
    if order is None or neighbours is None or not found.individuals.size:
        return ranking
    moved = order(found, neighbours, temperature)
    return Ranking(*(_reorder(part, moved) for part in (ranking.individuals, ranking.cosines, ranking.images)))


def _reorder(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    first = np.take_along_axis(values, order, axis=1)
    return np.concatenate([first, values[:, order.shape[1] :]], axis=1)


def join_rankings(rankings: Sequence[Ranking], places: Sequence[np.ndarray]) -> Ranking:
    """Return the rankings of groups of queries as one.

    Args:
        rankings: Ranking of each group; with R = 0 its queries have no candidate.
        places: Positions of the queries of each group, shape (q,).
    """
    cosines = join_rows([one.cosines for one in rankings], places, np.nan)
    for one, queries in zip(rankings, places, strict=True):
        if not one.cosines.shape[1]:
            cosines[queries, :1] = NO_CANDIDATE
    return Ranking(
        join_rows([one.individuals for one in rankings], places, -1),
        cosines,
        join_rows([one.images for one in rankings], places, -1),
    )


def join_rows(parts: Sequence[np.ndarray], places: Sequence[np.ndarray], absent: float) -> np.ndarray:
    """Return the rows of groups of queries in the order of the queries, shape (Q, R).

    Args:
        parts: Rows of each group, shape (q, r); R is the largest r.
        places: Positions of the rows of each group, shape (q,).
        absent: Value of missing columns.
    """
    if len(parts) == 1:
        return parts[0]
    shape = (sum(map(len, places)), max(part.shape[1] for part in parts))
    joined = np.full(shape, absent, dtype=parts[0].dtype)
    for part, rows in zip(parts, places, strict=True):
        joined[rows, : part.shape[1]] = part
    return joined


def check_vote(vote: str, *, neighbours: int | None, temperature: float) -> None:
    """Check that vote, k and temperature go together.

    Args:
        vote: A key of `VOTES`.
        neighbours: k.
        temperature: Temperature of `softmax`.

    Raises:
        InputError: If they do not.
    """
    if vote not in VOTES:
        raise InputError(f"a vote is one of {', '.join(VOTES)}, but got {vote!r}. Name one of them")
    if has_effect("neighbours", {"vote": vote}) and (neighbours is None or neighbours < 1):
        raise InputError(f"`neighbours >= 1` must hold for the vote {vote}, but got {neighbours}. Give a k")
    if has_effect("temperature", {"vote": vote}) and not temperature > 0:
        raise InputError(f"`temperature > 0` must hold for the vote {vote}, but got {temperature}. Give 0.05 or so")


def new_individual_rank(cosines: np.ndarray, threshold: float | np.ndarray | None) -> np.ndarray:
    """Return the rank (from 1) at which an unknown individual enters each ranking; 0 if it does not.

    It enters before the first candidate whose cosine is below the threshold.

    >>> new_individual_rank(np.array([[0.9, 0.4, 0.6], [0.9, 0.8, np.nan]]), threshold=0.5)
    array([2, 0])

    Args:
        cosines: Largest cosine of the ranked individuals, NaN if there are no more, shape (Q, R).
        threshold: The threshold, for all or by query, shape (Q,); None or NaN never lets an unknown individual in.
    """
    if threshold is None or not cosines.shape[1]:
        return np.zeros(len(cosines), dtype=np.int64)
    below = cosines < np.reshape(threshold, (-1, 1))
    return np.where(below.any(axis=1), below.argmax(axis=1) + 1, 0)
