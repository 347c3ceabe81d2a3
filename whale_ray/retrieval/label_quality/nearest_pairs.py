"""Photographs that lie nearest to one another, from vectors alone, in parts that fit into memory.

Knows vectors only: neither names nor pictures.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from whale_ray.retrieval.search.gallery_index import unit

NOBODY = -np.inf  # the cosine to a photograph that is not asked about
_CELLS = 2**24


def nearest_pairs(vectors: np.ndarray, *, depth: int = 3, most: int = 20_000) -> np.ndarray:
    """The pairs of photographs that may be one picture: int (P, 2), the smaller row first, the nearest pairs first.

    vectors: (N, D). Those of which one is the nearest of the other, or each among the other's nearest `depth`; of these
    the `most` nearest.
    """
    precise = unit(vectors)
    depth = min(depth, len(precise) - 1)
    if depth < 1:
        return np.zeros((0, 2), dtype=np.int64)
    nearest, cosines = np.zeros((len(precise), depth), dtype=np.int64), np.zeros((len(precise), depth))
    for part in chunks(len(precise), len(precise)):
        block = _others(precise, part)
        nearest[part] = np.argsort(-block, axis=1, kind="stable")[:, :depth]
        cosines[part] = np.take_along_axis(block, nearest[part], axis=1)
    ones = np.repeat(np.arange(len(precise)), depth)
    others, first = nearest.ravel(), np.tile(np.arange(depth) == 0, len(precise))
    mutual = (nearest[others] == ones[:, None]).any(axis=1)
    kept = np.flatnonzero(first | mutual)
    kept = kept[np.argsort(-cosines.ravel()[kept], kind="stable")]
    pairs = np.sort(np.stack([ones[kept], others[kept]], axis=1), axis=1)
    return np.asarray(pairs[np.sort(np.unique(pairs, axis=0, return_index=True)[1])][:most])


def _others(vectors: np.ndarray, part: slice) -> np.ndarray:
    """The cosines of a part to all, (n, N); -inf to itself."""
    block = (vectors[part] @ vectors.T).astype(np.float64)
    lines = np.arange(len(block))
    block[lines, lines + part.start] = NOBODY
    return np.asarray(block)


def nearest_of_each(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest other one of each (n, D), and its cosine: both (n,)."""
    nearest, cosines = np.zeros(len(vectors), dtype=np.int64), np.zeros(len(vectors))
    for part in chunks(len(vectors), len(vectors)):
        block = _others(vectors, part)
        nearest[part] = block.argmax(axis=1)
        cosines[part] = block.max(axis=1)
    return nearest, cosines


def chunks(count: int, width: int) -> Iterator[slice]:
    """The rows 0 to `count` in parts, each of which takes a bounded matrix of so many rows and `width` columns."""
    size = max(1, _CELLS // max(width, 1))
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
