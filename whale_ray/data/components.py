"""Connected components: rows that belong together, and the groups that a split keeps on one side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd


def components_by_pairs(count: int, pairs: np.ndarray) -> np.ndarray:
    """Return the first row of each row's connected component, int, shape (count,).

    Args:
        count: Number of rows.
        pairs: Connected rows, int, shape (P, 2).
    """
    from scipy.sparse import coo_array  # slow to import, and a dry run needs no components
    from scipy.sparse.csgraph import connected_components

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


def connected_groups(rows: pd.DataFrame, twins: pd.Series | None, *, by_individual: bool) -> pd.Series:
    """Return a number per row, int64: rows with one number must stay on one side of a split.

    Rows are connected by their group (of one individual, or of all), by their twin group and by their file.

    Args:
        rows: Columns individual, group and optionally file; index from 0.
        twins: Twin group of each row, "" for none.
        by_individual: A group connects only rows of one individual.
    """
    named = rows["group"].where(rows["group"] != "", None)
    keys = [rows["individual"].str.cat(named, sep="\0") if by_individual else named]
    if twins is not None:
        keys.append(_named_twins(twins))
    if "file" in rows:
        keys.append(rows["file"])
    return pd.Series(components_by_keys([pd.factorize(key)[0] for key in keys]))


def conflicting_groups(groups: pd.Series, rows: pd.DataFrame, twins: pd.Series | None) -> pd.Series:
    """Return the groups with a picture that is labelled with two individuals.

    Args:
        groups: Group of each row, as `connected_groups` returns it.
        rows: Column individual; index from 0.
        twins: Twin group of each row, "" for none.
    """
    if twins is None:
        return groups.iloc[:0]
    shown = rows["individual"].groupby(_named_twins(twins)).transform("nunique")
    return groups[shown > 1]


def is_in_shared_group(rows: pd.DataFrame) -> pd.Series:
    """Return True for each row whose group has several individuals; bool, index of `rows`.

    Args:
        rows: Columns individual and group.
    """
    return rows.groupby("group")["individual"].transform("nunique") > 1


def _named_twins(twins: pd.Series) -> pd.Series:
    return twins.reset_index(drop=True).replace("", None)
