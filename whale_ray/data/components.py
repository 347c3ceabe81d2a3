"""Connected components of rows that belong together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def components_by_pairs(count: int, pairs: np.ndarray) -> np.ndarray:
    """Return the first row of each row's connected component, int, shape (count,).

    Args:
        count: Number of rows.
        pairs: Connected rows, int, shape (P, 2).
    """
    first, second = pairs.reshape(-1, 2).T
    graph = coo_array((np.ones(len(first), dtype=bool), (first, second)), shape=(count, count))
    labels = connected_components(graph, directed=False)[1]
    _, first_rows = np.unique(labels, return_index=True)
    return np.asarray(first_rows[labels], dtype=np.int64)


def components_by_keys(keys: Sequence[np.ndarray]) -> np.ndarray:
    """Return the first row of each row's component, where rows with an equal key are connected. Shape (N,).

    Args:
        keys: Codes per row, int, shape (N,) each; a negative code connects nothing.
    """
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for codes in keys:
        rows = np.flatnonzero(codes >= 0)
        _, first, inverse = np.unique(codes[rows], return_index=True, return_inverse=True)
        pairs.append(np.stack([rows, rows[first][inverse]], axis=1))
    return components_by_pairs(len(keys[0]), np.concatenate(pairs))
