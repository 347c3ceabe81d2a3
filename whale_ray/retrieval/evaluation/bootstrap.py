"""Queries that belong together: clusters for the bootstrap, folds for cross-fitting, intervals.

Knows labels and figures of queries. Knows nothing of vectors, votes or thresholds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

FOLDS = 5
FEWEST_CLUSTERS = 4
_DRAWS = 1000
_CELLS = 2**22  # clusters drawn at once


def query_clusters(
    individuals: np.ndarray, *, images: np.ndarray, groups: np.ndarray | None, unknown_label: str
) -> np.ndarray:
    """The cluster of each query, str (Q,): its individual; for an unknown one its group or, without one, its image.

    >>> query_clusters(
    ...     np.array(["w_1", "new", "new"]),
    ...     images=np.array(["a", "b", "c"]),
    ...     groups=np.array(["g", "g", ""]),
    ...     unknown_label="new",
    ... ).tolist()
    ['individual:w_1', 'group:g', 'image:c']
    """
    alone = np.char.add("image:", images)
    together = alone if groups is None else np.where(groups == "", alone, np.char.add("group:", groups))
    return np.where(individuals == unknown_label, together, np.char.add("individual:", individuals))


def query_folds(clusters: np.ndarray, *, images: np.ndarray, groups: np.ndarray | None, seed: int = 0) -> np.ndarray:
    """The fold of each query, int (Q,), 0 to 4: clusters and groups stay whole, folds are as even as that allows.

    clusters: as `query_clusters` gives them. The order of the queries does not matter; the seed does.
    """
    together = images if groups is None else np.where(groups == "", np.char.add("=", images), groups)
    order = np.argsort(images, kind="stable")
    _, part, sizes = np.unique(_connect(clusters[order], together[order]), return_inverse=True, return_counts=True)
    shuffled = np.random.default_rng(seed).permutation(len(sizes))
    fold_of, loads = np.zeros(len(sizes), dtype=np.int64), np.zeros(FOLDS, dtype=np.int64)
    for place in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        fold_of[place] = loads.argmin()
        loads[fold_of[place]] += sizes[place]
    folds = np.empty(len(images), dtype=np.int64)
    folds[order] = fold_of[part]
    return folds


def _connect(*labels: np.ndarray) -> np.ndarray:
    """The connected part of each row, named by its first row: rows that share a label of any kind are in one part."""
    part = np.arange(len(labels[0]))
    codes = [np.unique(each, return_inverse=True)[1] for each in labels]
    while True:
        before = part
        for code in codes:
            lowest = np.full(len(part), len(part))
            np.minimum.at(lowest, code, part)
            part = lowest[code]
        if np.array_equal(part, before):
            return part


def bootstrap_interval(
    values: np.ndarray,
    counted: np.ndarray,
    clusters: np.ndarray,
    *,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """The lower and upper end, each (M,), of the percentile interval of M means, by resampling whole clusters.

    values: (Q, M). counted: bool (Q, M), which queries enter each mean. NaN where too few clusters are counted.
    """
    codes = np.unique(clusters, return_inverse=True)[1]
    sums, sizes = (_sum_by_cluster(each, codes) for each in (np.where(counted, values, 0.0), counted))
    means = _resampled_means(sums, sizes, np.random.default_rng(seed))
    enough = enough_clusters((sizes > 0).sum(axis=0))
    means[:, ~enough] = 0.0
    low, high = percentiles(means, level=level)
    return np.where(enough, low, np.nan), np.where(enough, high, np.nan)


def means_with_intervals(
    names: Sequence[str], values: np.ndarray, counted: np.ndarray, clusters: np.ndarray, *, seed: int
) -> dict[str, float | None]:
    """The mean of each column of `values` (Q, M) over its counted queries, with `_low` and `_high`.

    Arguments as `bootstrap_interval`. None where nothing is counted, or too little for an interval.
    """
    lows, highs = bootstrap_interval(values, counted, clusters, seed=seed)
    scores: dict[str, float | None] = {}
    for place, name in enumerate(names):
        here = counted[:, place]
        scores[name] = float(values[here, place].mean()) if here.any() else None
        scores[f"{name}_low"], scores[f"{name}_high"] = as_number(lows[place]), as_number(highs[place])
    return scores


def as_number(value: float) -> float | None:
    """The value as JSON can hold it: None for NaN."""
    return None if np.isnan(value) else float(value)


def enough_clusters(counts: np.ndarray | int) -> np.ndarray:
    """Whether so many clusters can give an interval: resampling fewer says nothing of those that were not seen."""
    return np.asarray(counts) >= FEWEST_CLUSTERS


def percentiles(draws: np.ndarray, *, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """The lower and upper end of the middle `level` of draws (B, ...), NaN left out."""
    tail = 50.0 * (1.0 - level)
    low, high = np.nanpercentile(draws, [tail, 100.0 - tail], axis=0)
    return low, high


def _sum_by_cluster(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    return np.stack([np.bincount(codes, column) for column in values.T], axis=1)


def _resampled_means(sums: np.ndarray, sizes: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(draws, M) means; NaN where a draw has no counted query."""
    means = []
    for weights in cluster_draws(len(sums), random):
        total = weights @ sizes
        means.append(np.divide(weights @ sums, total, out=np.full(total.shape, np.nan), where=total > 0))
    return np.concatenate(means)


def cluster_draws(clusters: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    """How often each cluster is drawn, float (b, clusters), a few draws at a time, until there are all."""
    at_once = max(1, _CELLS // clusters)
    for start in range(0, _DRAWS, at_once):
        draws = min(at_once, _DRAWS - start)
        cells = random.integers(0, clusters, (draws, clusters)) + clusters * np.arange(draws)[:, None]
        yield np.bincount(cells.ravel(), minlength=draws * clusters).reshape(draws, clusters).astype(np.float64)


def paired_interval(
    first: np.ndarray, second: np.ndarray, clusters: np.ndarray, *, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """The interval of mean(first) - mean(second) over the same queries (Q,), by resampling whole clusters.

    An interval that holds zero: the two are not told apart. NaN, NaN with too few clusters.
    """
    difference = (np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64))[:, None]
    low, high = bootstrap_interval(difference, np.ones(difference.shape, dtype=bool), clusters, level=level, seed=seed)
    return float(low[0]), float(high[0])
