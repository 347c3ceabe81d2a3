"""Clusters of queries: bootstrap intervals over individuals and folds for cross-fitting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from whale_ray.data.components import components_by_keys

FOLDS = 5
FEWEST_CLUSTERS = 4
_DRAWS = 1000
_CELLS = 2**20  # clusters drawn at once
_MOST_KEPT = 2**24  # of which the draws are kept: all scores of an evaluation resample the same clusters


def query_clusters(
    individuals: np.ndarray, *, images: np.ndarray, groups: np.ndarray | None, unknown_label: str
) -> np.ndarray:
    """Return the cluster of each query: its individual; for an unknown individual its group or, without one, its image.

    >>> query_clusters(
    ...     np.array(["w_1", "new", "new"]),
    ...     images=np.array(["a", "b", "c"]),
    ...     groups=np.array(["g", "g", ""]),
    ...     unknown_label="new",
    ... ).tolist()
    ['individual:w_1', 'group:g', 'image:c']

    Args:
        individuals: Shape (Q,).
        images: Shape (Q,).
        groups: Shape (Q,), "" for none; None if there are no groups.
        unknown_label: Label of unknown individuals.
    """
    alone = np.char.add("image:", images)
    together = alone if groups is None else np.where(groups == "", alone, np.char.add("group:", groups))
    return np.where(individuals == unknown_label, together, np.char.add("individual:", individuals))


def query_folds(clusters: np.ndarray, *, images: np.ndarray, groups: np.ndarray | None, seed: int = 0) -> np.ndarray:
    """Return the fold of each query, 0 to 4. Clusters and groups stay whole; folds are as even as that allows.

    Args:
        clusters: From `query_clusters`, shape (Q,).
        images: Shape (Q,); makes the result independent of the order of the queries.
        groups: Shape (Q,), "" for none.
        seed: Seed of the order.
    """
    together = images if groups is None else np.where(groups == "", np.char.add("=", images), groups)
    order = np.argsort(images, kind="stable")
    keys = [np.unique(labels[order], return_inverse=True)[1] for labels in (clusters, together)]
    components = components_by_keys(keys)
    _, part, sizes = np.unique(components, return_inverse=True, return_counts=True)
    shuffled = np.random.default_rng(seed).permutation(len(sizes))
    fold_of, loads = np.zeros(len(sizes), dtype=np.int64), np.zeros(FOLDS, dtype=np.int64)
    for place in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        fold_of[place] = loads.argmin()
        loads[fold_of[place]] += sizes[place]
    folds = np.empty(len(images), dtype=np.int64)
    folds[order] = fold_of[part]
    return folds


def clusters_and_folds(
    individuals: np.ndarray,
    *,
    images: np.ndarray,
    groups: np.ndarray | None,
    rows: np.ndarray,
    unknown_label: str,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return `query_clusters` and `query_folds` of some of N photographs, the queries; each has shape (Q,).

    Args:
        individuals: Shape (N,).
        images: Shape (N,).
        groups: Shape (N,), "" for none; None if there are no groups.
        rows: Positions of the queries, shape (Q,).
        unknown_label: Label of unknown individuals.
        seed: Seed of the folds.
    """
    names, asked = images[rows], None if groups is None else groups[rows]
    clusters = query_clusters(individuals[rows], images=names, groups=asked, unknown_label=unknown_label)
    return clusters, query_folds(clusters, images=names, groups=asked, seed=seed)


def bootstrap_interval(
    values: np.ndarray,
    weights: np.ndarray,
    clusters: np.ndarray,
    *,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the percentile interval of M means, each (M,), by resampling whole clusters.

    Args:
        values: Shape (Q, M).
        weights: Weight of each query in each mean, bool or float, at least 0, shape (Q, M).
        clusters: Cluster of each query, shape (Q,).
        level: Confidence level, 0 to 1.
        seed: Seed of the resampling.

    Returns:
        Lower and upper ends; NaN if too few clusters have a weight.
    """
    codes = np.unique(clusters, return_inverse=True)[1]
    sums, sizes = (_sum_by_cluster(each, codes) for each in (np.where(weights, values * weights, 0.0), weights))
    means = _resampled_means(sums, sizes, seed)
    enough = has_enough_clusters((sizes > 0).sum(axis=0))
    means[:, ~enough] = 0.0
    low, high = percentiles(means, level=level)
    return np.where(enough, low, np.nan), np.where(enough, high, np.nan)


def means_with_intervals(
    names: Sequence[str], values: np.ndarray, weights: np.ndarray, clusters: np.ndarray, *, seed: int
) -> dict[str, float | None]:
    """Return the weighted mean of each column with `_low` and `_high`; None if it cannot be computed.

    Args:
        names: Names of the M columns.
        values: Shape (Q, M).
        weights: Weight of each query in each mean, bool or float, at least 0, shape (Q, M).
        clusters: Cluster of each query, shape (Q,).
        seed: Seed of the resampling.
    """
    lows, highs = bootstrap_interval(values, weights, clusters, seed=seed)
    scores: dict[str, float | None] = {}
    for place, name in enumerate(names):
        here = weights[:, place] > 0
        scores[name] = float(np.average(values[here, place], weights=weights[here, place])) if here.any() else None
        scores[f"{name}_low"], scores[f"{name}_high"] = nan_to_none(lows[place]), nan_to_none(highs[place])
    return scores


def nan_to_none(value: float) -> float | None:
    """Return the value as JSON can hold it: None for NaN."""
    return None if np.isnan(value) else float(value)


def has_enough_clusters(counts: np.ndarray | int) -> np.ndarray:
    """Return whether so many clusters can give an interval."""
    return np.asarray(counts) >= FEWEST_CLUSTERS


def percentiles(draws: np.ndarray, *, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the middle `level` of draws (B, ...), ignoring NaN.

    Args:
        draws: Shape (B, ...).
        level: Confidence level, 0 to 1.
    """
    tail = 50.0 * (1.0 - level)
    percentile = np.nanpercentile if np.isnan(draws).any() else np.percentile  # the first is slow, column by column
    low, high = percentile(draws, [tail, 100.0 - tail], axis=0)
    return low, high


def _sum_by_cluster(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    return np.stack([np.bincount(codes, column) for column in values.T], axis=1)


def _resampled_means(sums: np.ndarray, sizes: np.ndarray, seed: int) -> np.ndarray:
    """Return means of shape (draws, M); NaN for a draw without a counted query."""
    means = []
    for weights in cluster_draws(len(sums), seed):
        total = weights @ sizes
        means.append(np.divide(weights @ sums, total, out=np.full(total.shape, np.nan), where=total > 0))
    return np.concatenate(means)


def cluster_draws(clusters: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each cluster is drawn, float64, shape (b, clusters), a few draws at a time.

    Args:
        clusters: Number of clusters.
        seed: Seed of the draws.
    """
    parts = _kept_draws(clusters, seed) if _DRAWS * clusters <= _MOST_KEPT else _draw(clusters, seed)
    yield from (part.astype(np.float64) for part in parts)


@lru_cache(maxsize=4)
def _kept_draws(clusters: int, seed: int) -> tuple[np.ndarray, ...]:
    return tuple(_draw(clusters, seed))


def _draw(clusters: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each cluster is drawn, uint8, shape (b, clusters)."""
    random, at_once = np.random.default_rng(seed), max(1, _CELLS // clusters)
    for start in range(0, _DRAWS, at_once):
        draws = min(at_once, _DRAWS - start)
        cells = random.integers(0, clusters, (draws, clusters)) + clusters * np.arange(draws)[:, None]
        counts = np.bincount(cells.ravel(), minlength=draws * clusters).reshape(draws, clusters)
        yield np.minimum(counts, 255).astype(np.uint8)  # a cluster is drawn once on average, and never so often


def paired_interval(
    first: np.ndarray, second: np.ndarray, clusters: np.ndarray, *, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Return the interval of mean(first) - mean(second) over the same queries, by resampling whole clusters.

    An interval that contains zero means that the two are not told apart. NaN with too few clusters.

    Args:
        first: Shape (Q,).
        second: Shape (Q,).
        clusters: Cluster of each query, shape (Q,).
        level: Confidence level, 0 to 1.
        seed: Seed of the resampling.
    """
    difference = (np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64))[:, None]
    low, high = bootstrap_interval(difference, np.ones(difference.shape, dtype=bool), clusters, level=level, seed=seed)
    return float(low[0]), float(high[0])
