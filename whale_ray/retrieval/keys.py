"""Keys: a cosine and a place in the gallery as one whole number, so that sorting keys sorts by both, ties included.

Cosines are in steps of 1 / STEPS, so that a vector's place in a matrix product decides no tie. Knows no vectors.
"""

from __future__ import annotations

import numpy as np

from whale_ray.retrieval.gallery import STEPS

ABSENT = np.iinfo(np.int64).min
LOW = 2**32 - 1


def keys_of(cosines: np.ndarray, places: np.ndarray) -> np.ndarray:
    """One int64 for each candidate: the greater, the nearer; the earlier place where cosines are equal."""
    steps = np.rint(cosines * STEPS).astype(np.int64)
    return np.asarray((steps << 32) + (LOW - places))


def places_of(keys: np.ndarray) -> np.ndarray:
    """The place in each key; -1 where it is ABSENT."""
    return np.where(keys == ABSENT, -1, LOW - (keys & LOW))


def cosines_of(keys: np.ndarray) -> np.ndarray:
    """The cosine in each key; NaN where it is ABSENT."""
    return np.where(keys == ABSENT, np.nan, (keys >> 32) / STEPS)


def largest_of(keys: np.ndarray, count: int) -> np.ndarray:
    """The `count` greatest of each row of keys (Q, N), or all, greatest first."""
    if count < keys.shape[1]:
        keys = np.partition(keys, keys.shape[1] - count, axis=1)[:, keys.shape[1] - count :]
    return np.sort(keys, axis=1)[:, ::-1]
