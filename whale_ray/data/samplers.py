"""Which photographs come together in a batch; knows their labels, no pictures.

All draws come from the generator that is given, so that an epoch's batches can be drawn again.
"""

from __future__ import annotations

import math

import numpy as np

UNKNOWN = -1


def shuffle_places(count: int, *, steps: int, numbers: np.random.Generator) -> list[np.ndarray]:
    """Every place once, in any order; the sizes are even: a last batch of one picture has no variance to normalise."""
    return np.array_split(numbers.permutation(count), steps)


def group_places(
    labels: np.ndarray,
    *,
    steps: int,
    batch_size: int,
    size: int,
    evenly: bool = False,
    negatives_share: float | None = None,
    numbers: np.random.Generator,
) -> list[np.ndarray]:
    """P individuals x K images a batch, K (`size`) one after the other; then unknown individuals, as their share asks.

    labels: one a place, -1 for an unknown individual. An individual with fewer than K images repeats some. About as
    many images are seen as there are. By images: an individual comes in one group for each K of its images, and which
    groups have to wait for another epoch is drawn. `evenly`: every individual comes as often as any other, by one.
    negatives_share: of unknown individuals in each batch; None is their share of all.
    """
    known, unknown = np.flatnonzero(labels != UNKNOWN), np.flatnonzero(labels == UNKNOWN)
    unknown = numbers.permutation(unknown)
    share = len(unknown) / len(labels) if negatives_share is None else negatives_share
    negatives = round(batch_size * share) if len(unknown) else 0
    each = max(1, (batch_size - negatives) // size)
    if evenly:
        groups = _even_groups(known, labels, size=size, count=steps * each, numbers=numbers)
    else:
        groups = numbers.permutation(_all_groups(known, labels, size=size, numbers=numbers))
    drawn = groups[np.resize(np.arange(len(groups)), steps * each)].reshape(steps, -1)
    others = np.resize(unknown, (steps, negatives))
    return [np.concatenate(pair).astype(int) for pair in zip(drawn, others, strict=True)]


def _all_groups(known: np.ndarray, labels: np.ndarray, *, size: int, numbers: np.random.Generator) -> np.ndarray:
    """Groups of `size` places with one label each, (G, size): each place at least once."""
    parts = _by_individual(known, labels, numbers)
    return np.concatenate([np.resize(part, (math.ceil(len(part) / size), size)) for part in parts])


def _even_groups(
    known: np.ndarray, labels: np.ndarray, *, size: int, count: int, numbers: np.random.Generator
) -> np.ndarray:
    """`count` groups, (count, size): round after round of all individuals, each round in an order of its own."""
    parts = _by_individual(known, labels, numbers)
    rounds = [numbers.permutation(len(parts)) for _ in range(math.ceil(count / len(parts)))]
    order = np.concatenate(rounds)[:count]
    groups = np.empty((count, size), dtype=np.int64)
    for individual, part in enumerate(parts):
        turns = np.flatnonzero(order == individual)
        groups[turns] = np.resize(part, (len(turns), size))
    return groups


def _by_individual(known: np.ndarray, labels: np.ndarray, numbers: np.random.Generator) -> list[np.ndarray]:
    """The places of each individual, in any order."""
    order = known[np.argsort(numbers.permutation(len(known)), kind="stable")]
    order = order[np.argsort(labels[order], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
