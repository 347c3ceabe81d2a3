"""Candidates by matrix products in float32, a block of queries at a time.

One comparison finds the candidates: a bound of the smallest of them is known from the largest cosines of groups of
columns. faiss takes more than twice the time of the product for a hundred candidates.
"""

from __future__ import annotations

import numpy as np

_CELLS = 2**23  # cosines held at once
_GROUP = 16  # columns of a group of which the largest value is looked at
_LOW = 2**32 - 1  # bits of a key that hold the column
_SURPLUS = 4  # times as many values as are wanted, beyond which a row is sorted


def nearest_candidates(queries: np.ndarray, vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return positions and cosines of the nearest vectors of each query, by falling cosine, each of shape (Q, count).

    Of equal cosines at the end, the first vectors are taken.

    Args:
        queries: Unit vectors, float32, shape (Q, D).
        vectors: Unit vectors, float32, shape (N, D).
        count: Candidates per query, at most N.

    Returns:
        Positions, int64, and cosines as float32 gives them: how far they are off depends on the block.
    """
    blocks = -(-len(queries) * len(vectors) // _CELLS)
    size = -(-len(queries) // max(1, blocks))  # of even size: BLAS takes nearly as long for a short one
    places = np.empty((len(queries), count), dtype=np.int64)
    cosines = np.empty((len(queries), count), dtype=np.float32)
    # Filled again and again: new memory of this size costs as much as the selection.
    product = np.empty((size, len(vectors)), dtype=np.float32)
    for start in range(0, len(queries), size):
        part = slice(start, start + size)
        here = product[: len(queries[part])]
        np.matmul(queries[part], vectors.T, out=here)
        places[part], cosines[part] = _largest(here, count)
    return places, cosines


def _largest(values: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return columns and values of the largest `count` of each row, largest first."""
    chosen = values >= _lower_bound(values, count)[:, None]
    flat, numbers = _positions(chosen)
    if len(tied := np.flatnonzero(numbers > _SURPLUS * count)):  # many equal values at the end
        chosen[tied] = False
        chosen[tied[:, None], np.argsort(-values[tied], axis=1, kind="stable")[:, :count]] = True
        flat, numbers = _positions(chosen)
    keys = np.full((len(values), numbers.max()), np.iinfo(np.int64).max)
    keys[np.arange(keys.shape[1]) < numbers[:, None]] = _falling_keys(np.take(values, flat), flat % values.shape[1])
    columns = np.sort(keys, axis=1)[:, :count] & _LOW
    return columns, np.take_along_axis(values, columns, axis=1)


def _positions(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the flat positions of the True cells of a matrix in ascending order, and their number in each row."""
    flat = np.flatnonzero(chosen)
    return flat, np.diff(np.searchsorted(flat, np.arange(len(chosen) + 1) * chosen.shape[1]))


def _falling_keys(values: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return int64 keys that sort by falling float32 value, then by column: NumPy sorts them faster than it argsorts.

    The bits of a float that is not negative sort as its value does; those of a negative one sort in reverse.
    """
    bits = (values + np.float32(0)).view(np.int32)  # the sum makes -0.0 equal to 0.0
    falling = np.where(bits < 0, bits & 0x7FFFFFFF, ~bits).astype(np.int64)
    return np.asarray((falling << 32) + columns)


def _lower_bound(values: np.ndarray, count: int) -> np.ndarray:
    """Return a number for each row that at least `count` of its values reach, and not many more.

    The largest values of `count` groups reach the smallest of these. Groups take every n-th column, since neighbors in
    a gallery are of one individual.
    """
    groups = values.shape[1] // _GROUP
    if groups < 2 * count:
        tops, groups = values, values.shape[1]
    else:
        tops = values[:, : groups * _GROUP].reshape(len(values), _GROUP, groups).max(axis=1)
    return np.asarray(np.partition(tops, groups - count, axis=1)[:, groups - count])
