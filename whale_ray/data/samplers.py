"""Batch samplers: which training rows form a batch.

All randomness comes from the given generator, so that the batches of an epoch can be drawn again.
"""

from __future__ import annotations

import math

import numpy as np

UNKNOWN = -1


def shuffled_batches(count: int, *, steps: int, numbers: np.random.Generator) -> list[np.ndarray]:
    """Return every index once, in random order, as batches of equal size (differing by at most one).

    Equal sizes avoid a last batch of one image, which has no variance to normalise.

    Args:
        count: Number of training rows.
        steps: Number of batches.
        numbers: Source of randomness.
    """
    return np.array_split(numbers.permutation(count), steps)


def pk_batches(
    labels: np.ndarray,
    *,
    steps: int,
    batch_size: int,
    size: int,
    evenly: bool = False,
    negatives_share: float | None = None,
    numbers: np.random.Generator,
) -> list[np.ndarray]:
    """Return batches of P individuals x K images, followed by unknown individuals.

    The K images of an individual are adjacent. An individual with fewer than K images repeats some. An epoch sees about
    as many images as the data has. By default an individual appears once for every K of its images, and chance decides
    which groups wait for the next epoch.

    Args:
        labels: Class of each row, -1 for an unknown individual, shape (n,).
        steps: Number of batches.
        batch_size: Images per batch.
        size: K.
        evenly: Draw every individual equally often (differing by at most one).
        negatives_share: Share of unknown individuals per batch; None for their share of the data.
        numbers: Source of randomness.

    Returns:
        `steps` arrays of row indices.
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
    """Return groups of `size` rows with one label each, shape (G, size); every row appears at least once."""
    parts = _by_individual(known, labels, numbers)
    return np.concatenate([np.resize(part, (math.ceil(len(part) / size), size)) for part in parts])


def _even_groups(
    known: np.ndarray, labels: np.ndarray, *, size: int, count: int, numbers: np.random.Generator
) -> np.ndarray:
    """Return `count` groups, shape (count, size): rounds over all individuals, each round in a new order."""
    parts = _by_individual(known, labels, numbers)
    rounds = [numbers.permutation(len(parts)) for _ in range(math.ceil(count / len(parts)))]
    order = np.concatenate(rounds)[:count]
    groups = np.empty((count, size), dtype=np.int64)
    for individual, part in enumerate(parts):
        turns = np.flatnonzero(order == individual)
        groups[turns] = np.resize(part, (len(turns), size))
    return groups


def _by_individual(known: np.ndarray, labels: np.ndarray, numbers: np.random.Generator) -> list[np.ndarray]:
    """Return the rows of each individual, shuffled."""
    order = known[np.argsort(numbers.permutation(len(known)), kind="stable")]
    order = order[np.argsort(labels[order], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
