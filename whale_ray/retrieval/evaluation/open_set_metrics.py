"""Open-set metrics: AUROC of known against new, scores balanced over individuals, and the curve of reliability."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from whale_ray.retrieval.evaluation.query_clusters import (
    cluster_draws,
    has_enough_clusters,
    means_with_intervals,
    percentiles,
)

OPEN_SET = ("auroc", "baks", "baus")


def auroc(cosines: np.ndarray, known: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the probability that a known query's cosine exceeds a new one's, ties counted half. Shape (B,).

    Fawcett, "An introduction to ROC analysis", 2006.

    >>> auroc(np.array([0.9, 0.6, 0.6, 0.2]), np.array([True, True, False, False])).tolist()
    [0.875]

    Args:
        cosines: Shape (Q,).
        known: bool, shape (Q,); the others are new.
        weights: How often each query counts, shape (B, Q); None for once.

    Returns:
        One value per row of `weights`; NaN if one kind is missing.
    """
    weights = np.ones((1, len(cosines))) if weights is None else weights
    # In the order of their cosines, so that each known query's neighbors are found in the cache.
    ordered_known, ordered_new = (
        np.flatnonzero(kind)[np.argsort(cosines[kind], kind="stable")] for kind in (known, ~known)
    )
    of_known = np.take(weights, ordered_known, axis=1)
    below = np.pad(np.take(weights, ordered_new, axis=1).cumsum(axis=1), ((0, 0), (1, 0)))
    lower, upper = (np.searchsorted(cosines[ordered_new], cosines[ordered_known], side) for side in ("left", "right"))
    halves = np.take(below, lower, axis=1) + np.take(below, upper, axis=1)
    wins = np.einsum("bq,bq->b", of_known, halves) / 2
    pairs = of_known.sum(axis=1) * below[:, -1]
    return np.asarray(np.divide(wins, pairs, out=np.full(len(wins), np.nan), where=pairs > 0))


def open_set_scores(
    cosines: np.ndarray,
    right: np.ndarray,
    said_new: np.ndarray | None,
    *,
    known: np.ndarray,
    clusters: np.ndarray,
    seed: int = 0,
) -> dict[str, float | None]:
    """Return auroc, baks and baus with `_low` and `_high`; None if there is no known or no new query.

    baks is the mean over known individuals of the share of their queries answered correctly. baus is the mean over new
    individuals (clusters) of the share called new (Cermak et al., WildlifeDatasets, WACV 2024).

    Args:
        cosines: Cosine of the first answer, or minus the probability of a new animal, shape (Q,).
        right: The first answer is right and not called new, bool, shape (Q,).
        said_new: The answer is "new", bool, shape (Q,); None without a threshold.
        known: bool, shape (Q,); the others are new.
        clusters: Cluster of each query, shape (Q,).
        seed: Seed of the intervals.
    """
    scores: dict[str, float | None] = dict.fromkeys(
        f"{name}{end}" for name in OPEN_SET for end in ("", "_low", "_high")
    )
    if not known.any() or known.all() or np.isnan(cosines).any():
        return scores
    scores |= _auroc_with_interval(cosines, known, clusters, seed=seed)
    if said_new is not None:
        scores |= _balanced("baks", right, known, clusters, seed=seed)
        scores |= _balanced("baus", said_new, ~known, clusters, seed=seed)
    return scores


def _auroc_with_interval(
    cosines: np.ndarray, known: np.ndarray, clusters: np.ndarray, *, seed: int
) -> dict[str, float | None]:
    value = float(auroc(cosines, known)[0])
    names, codes = np.unique(clusters, return_inverse=True)
    if not all(has_enough_clusters(len(np.unique(codes[mask]))) for mask in (known, ~known)):
        return {"auroc": value}
    draws = cluster_draws(len(names), seed)
    low, high = percentiles(np.concatenate([auroc(cosines, known, each[:, codes]) for each in draws]))
    return {"auroc": value, "auroc_low": float(low), "auroc_high": float(high)}


def _balanced(
    name: str, hits: np.ndarray, counted: np.ndarray, clusters: np.ndarray, *, seed: int
) -> dict[str, float | None]:
    """Return the mean over clusters of their share of hits, with its interval."""
    names, codes = np.unique(clusters[counted], return_inverse=True)
    shares = np.bincount(codes, hits[counted]) / np.bincount(codes)
    return means_with_intervals((name,), shares[:, None], np.ones((len(shares), 1), dtype=bool), names, seed=seed)


def open_set_references(scores: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return the reference values of the open-set scores: ceiling, chance, and "new" for every query."""
    measured = {name: scores[name] is not None for name in OPEN_SET}
    beside = {"ceiling/auroc": 1.0, "chance/auroc": 0.5, "ceiling/baks": 1.0, "trivial/baks": 0.0}
    beside |= {"ceiling/baus": 1.0, "trivial/baus": 1.0}
    return {name: value if measured[name.rpartition("/")[2]] else None for name, value in beside.items()}


def reliability(probabilities: np.ndarray, outcomes: np.ndarray, *, bins: int = 10) -> list[dict[str, float]]:
    """Return the reliability curve: mean predicted probability and observed share in bins of equal size.

    Args:
        probabilities: Shape (N,).
        outcomes: bool, shape (N,).
        bins: Number of bins.
    """
    given = np.flatnonzero(~np.isnan(probabilities))
    order = given[np.argsort(probabilities[given], kind="stable")]
    return [
        {"said": float(probabilities[part].mean()), "happened": float(outcomes[part].mean())}
        for part in np.array_split(order, min(bins, max(1, len(order) // 10)))
        if len(part)
    ]
