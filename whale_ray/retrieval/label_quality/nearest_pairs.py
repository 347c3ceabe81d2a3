"""Nearest pairs of photographs, computed in chunks that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from whale_ray.retrieval.search.gallery_index import normalize_rows

NOBODY = -np.inf  # the cosine to a photograph that is not asked about
_CELLS = 2**24


def nearest_pairs(vectors: np.ndarray, *, depth: int = 3, most: int = 20_000) -> np.ndarray:
    """Return candidate pairs, int, shape (P, 2), the smaller row first, the nearest pairs first.

    A pair qualifies if one is the nearest of the other, or each is among the other's nearest `depth`.

    Args:
        vectors: Shape (N, D).
        depth: Size of the mutual neighborhoods.
        most: Largest number of pairs.
    """
    precise = normalize_rows(vectors)
    depth = min(depth, len(precise) - 1)
    if depth < 1:
        return np.zeros((0, 2), dtype=np.int64)
    nearest, cosines = np.zeros((len(precise), depth), dtype=np.int64), np.zeros((len(precise), depth))
    for part in row_chunks(len(precise), len(precise)):
        block = _others(precise, part)
        lines = np.arange(len(block))
        for place in range(depth):  # a few maxima are many times faster than sorting every row
            nearest[part, place] = block.argmax(axis=1)
            cosines[part, place] = block[lines, nearest[part, place]]
            block[lines, nearest[part, place]] = NOBODY
    ones = np.repeat(np.arange(len(precise)), depth)
    others, first = nearest.ravel(), np.tile(np.arange(depth) == 0, len(precise))
    mutual = (nearest[others] == ones[:, None]).any(axis=1)
    kept = np.flatnonzero(first | mutual)
    kept = kept[np.argsort(-cosines.ravel()[kept], kind="stable")]
    pairs = np.sort(np.stack([ones[kept], others[kept]], axis=1), axis=1)
    return np.asarray(pairs[np.sort(np.unique(pairs, axis=0, return_index=True)[1])][:most])


def _others(vectors: np.ndarray, part: slice) -> np.ndarray:
    """Return the cosines of a chunk to all rows, (n, N); -inf to itself."""
    block = (vectors[part] @ vectors.T).astype(np.float64)
    lines = np.arange(len(block))
    block[lines, lines + part.start] = NOBODY
    return np.asarray(block)


def nearest_of_each(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest other row of each vector and its cosine, each of shape (n,)."""
    nearest, cosines = np.zeros(len(vectors), dtype=np.int64), np.zeros(len(vectors))
    for part in row_chunks(len(vectors), len(vectors)):
        block = _others(vectors, part)
        nearest[part] = block.argmax(axis=1)
        cosines[part] = block.max(axis=1)
    return nearest, cosines


def row_chunks(count: int, width: int) -> Iterator[slice]:
    """Yield slices of 0 to `count` such that a float matrix of the slice times `width` stays bounded.

    Args:
        count: Number of rows.
        width: Number of columns.
    """
    size = max(1, _CELLS // max(width, 1))
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
