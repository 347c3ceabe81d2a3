"""Score table of a trial: every score with its interval, ceiling, chance and trivial answer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from whale_ray.retrieval.evaluation.decisions import Decision, expected_errors
from whale_ray.retrieval.evaluation.metrics import (
    are_hits,
    chance_of_image_recall,
    chance_of_map,
    chance_of_recall,
    reciprocal_ranks,
)
from whale_ray.retrieval.evaluation.open_set_metrics import open_set_references, open_set_scores
from whale_ray.retrieval.evaluation.outcomes import Queries, first_column, weights_over_individuals
from whale_ray.retrieval.evaluation.query_clusters import (
    FEWEST_CLUSTERS,
    has_enough_clusters,
    means_with_intervals,
    nan_to_none,
)
from whale_ray.retrieval.evaluation.score_names import CUTOFFS, INDIVIDUAL_SCORES, MAP, OBJECTIVES
from whale_ray.retrieval.evaluation.selection import CrossFittedOutcome
from whale_ray.retrieval.fusion.fusion_model import FEWEST

BRIERS = ("brier/match", "brier/new")
SIZES = ((1, "1"), (2, "2-3"), (4, "4-9"), (10, "10+"))
"""Classes of individuals by gallery images: the least number and the name; for the table of `by_images`."""
MIX_SIZES = ((1, "1-3"), (4, "4-9"), (10, "10+"))
"""The same for `mix`, which the headline names."""

_LACKS_FUSION = (
    f"local features change no ranking: each four of the five folds must have {FEWEST} right and {FEWEST} wrong "
    "candidates to fuse them"
)


def scores_with_intervals(
    pooled: CrossFittedOutcome,
    queries: Queries,
    clusters: np.ndarray,
    *,
    decision: Decision | None = None,
    new_by_strangers: bool = False,
    lacks_fusion: bool = False,
    seed: int,
) -> dict[str, Any]:
    """Return every score with `_low` and `_high`, its `ceiling/`, `chance/` and `trivial/`, and the counts of queries.

    A score that cannot be computed is None, and `reason` says why.

    Args:
        pooled: Cross-fitted outcome of each query.
        queries: The right answers.
        clusters: Cluster of each query, shape (Q,).
        decision: Decision between known and new; None if the thresholds decide.
        new_by_strangers: The probability of a new animal depends on more than the score, so that AUROC is that of it.
        lacks_fusion: A setting asks for local features, but too few candidates are right to fuse them.
        seed: Seed of the intervals.
    """
    hits = [are_hits(ranks, cutoff) for ranks in (pooled.ranks, pooled.image_ranks) for cutoff in CUTOFFS]
    values = np.stack([*hits, pooled.precisions, reciprocal_ranks(pooled.ranks), hits[0]], axis=1).astype(np.float64)
    weights = [*[queries.asked] * len(hits), np.ones(len(values)), queries.weights, queries.weights]
    scores: dict[str, Any] = {"queries": len(values), "known_queries": int(queries.known.sum())}
    if not len(values):
        reasons = ["no query: there is no validation photograph"] + [_LACKS_FUSION] * lacks_fusion
        return scores | dict.fromkeys(OBJECTIVES) | {"reason": "; ".join(reasons)}
    scores |= means_with_intervals(OBJECTIVES, values, np.stack(weights, axis=1), clusters, seed=seed)
    options: dict[str, Any] = {"decision": decision, "new_by_strangers": new_by_strangers, "seed": seed}
    scores |= _open_set(pooled, queries, clusters, **options) | _briers(pooled, queries, clusters, seed=seed)
    if curve := expected_errors(pooled.new, right=pooled.ranks == 1, known=queries.known):
        scores["expected_errors"] = curve
    for name, sizes in (("by_images", SIZES), ("mix", MIX_SIZES)):
        scores[name] = _by_images(pooled, queries, clusters, sizes, seed=seed)
    if (queries.species != "").any():
        scores["by_species"] = _by_species(pooled, queries, clusters, seed=seed)
    if reasons := _reasons(queries, clusters) + [_LACKS_FUSION] * lacks_fusion:
        scores["reason"] = "; ".join(reasons)
    return scores | _reference_scores(queries)


def _open_set(
    pooled: CrossFittedOutcome,
    queries: Queries,
    clusters: np.ndarray,
    *,
    decision: Decision | None,
    new_by_strangers: bool,
    seed: int,
) -> dict[str, float | None]:
    first = separating = first_column(pooled.cosines, np.nan)
    said_new = None if np.isnan(pooled.thresholds).any() else first < pooled.thresholds
    if decision is not None and not np.isnan(pooled.new).any():
        said_new = decision.of_new(pooled.new) >= 0.5
        separating = -pooled.new if new_by_strangers else first
    right = (pooled.ranks == 1) & (False if said_new is None else ~said_new)
    scores = open_set_scores(separating, right, said_new, known=queries.known, clusters=clusters, seed=seed)
    return scores | open_set_references(scores)


def _briers(
    pooled: CrossFittedOutcome, queries: Queries, clusters: np.ndarray, *, seed: int
) -> dict[str, float | None]:
    """brier/match and brier/new of the cross-fitted probabilities; trivial/: of always saying how frequent it is."""
    outcomes = np.stack([pooled.ranks == 1, ~queries.known], axis=1).astype(np.float64)
    predicted = np.stack([pooled.match, pooled.new], axis=1)
    given = ~np.isnan(predicted)
    scores = means_with_intervals(BRIERS, np.where(given, predicted - outcomes, 0.0) ** 2, given, clusters, seed=seed)
    shares = [outcomes[mask, place].mean() if mask.any() else np.nan for place, mask in enumerate(given.T)]
    trivial = {f"trivial/{name}": nan_to_none(share * (1 - share)) for name, share in zip(BRIERS, shares, strict=True)}
    return scores | trivial


def _by_images(
    pooled: CrossFittedOutcome,
    queries: Queries,
    clusters: np.ndarray,
    sizes: Sequence[tuple[int, str]],
    *,
    seed: int,
) -> list[dict[str, Any]]:
    """Return the scores of the queries that a recall counts, by the number of gallery images of their individual."""
    hits = are_hits(pooled.ranks, 1)
    values = np.stack([hits, pooled.precisions, reciprocal_ranks(pooled.ranks), hits], axis=1).astype(np.float64)
    rows: list[dict[str, Any]] = []
    for (least, name), (beyond, _) in pairwise([*sizes, (np.inf, "")]):
        here = queries.asked & (queries.images >= least) & (queries.images < beyond)
        evenly = weights_over_individuals(queries.labels, here)
        weights = np.stack([here, here, evenly, evenly], axis=1)
        scores = means_with_intervals(("recall@1", MAP, *INDIVIDUAL_SCORES), values, weights, clusters, seed=seed)
        individuals = len(np.unique(queries.labels[here]))
        rows.append({"images": name, "individuals": individuals, "queries": int(here.sum()), **scores})
    return rows


def _by_species(
    pooled: CrossFittedOutcome, queries: Queries, clusters: np.ndarray, *, seed: int
) -> list[dict[str, Any]]:
    """Return recall@1 and map@5 of the queries of each species, "" for unknown ones."""
    values = np.stack([are_hits(pooled.ranks, 1), pooled.precisions], axis=1).astype(np.float64)
    rows: list[dict[str, Any]] = []
    for species in np.unique(queries.species).tolist():
        here = queries.species == species
        weights = np.stack([here & queries.asked, here], axis=1)
        scores = means_with_intervals(("recall@1", MAP), values, weights, clusters, seed=seed)
        individuals = len(np.unique(queries.labels[here & queries.known]))
        rows.append({"species": species, "individuals": individuals, "queries": int(here.sum()), **scores})
    return rows


def _reasons(queries: Queries, clusters: np.ndarray) -> list[str]:
    """Why some scores or intervals cannot be given."""
    reasons = []
    if not queries.known.any():
        reasons.append("no known query: no validation photograph is of an individual with a gallery image")
    elif not queries.asked[queries.known].all():
        reasons.append("the gallery holds one individual only: every answer names it, so that recall says nothing")
    if queries.known.all():
        reasons.append("no unknown query: auroc, baks, baus, the threshold and the probability of new need some")
    for kind, mask in (("known", queries.known), ("unknown", ~queries.known)):
        count = len(np.unique(clusters[mask]))
        if mask.any() and not has_enough_clusters(count):
            reasons.append(
                f"no interval over {kind} queries: they are of {count} individuals or groups, and an interval needs "
                f"{FEWEST_CLUSTERS}"
            )
    return reasons


def _reference_scores(queries: Queries) -> dict[str, float | None]:
    """Return ceiling, chance and trivial answer of each score."""
    known, named, total = (int(each.sum()) for each in (queries.known, ~queries.new, queries.new | True))
    ceiling = known / named if named else None
    beside: dict[str, float | None] = {f"ceiling/{name}": ceiling for name in OBJECTIVES}
    beside["ceiling/map@5"] = (known + total - named) / total
    beside["trivial/map@5"] = (total - named) / total
    beside["chance/map@5"] = chance_of_map(queries.individuals[queries.known], known / total) if known else 0.0
    asked = queries.asked
    images, gallery, individuals = (each[asked] for each in (queries.images, queries.gallery, queries.individuals))
    for cutoff in CUTOFFS:
        beside[f"chance/recall@{cutoff}"] = chance_of_recall(individuals, cutoff) if asked.any() else None
        beside[f"chance/image_recall@{cutoff}"] = (
            chance_of_image_recall(images, gallery, cutoff) if asked.any() else None
        )
    return beside | _references_over_individuals(queries)


def _references_over_individuals(queries: Queries) -> dict[str, float | None]:
    """Return ceiling and chance of the scores averaged over individuals."""
    named = weights_over_individuals(queries.labels, ~queries.new)
    ceiling = float(np.average(queries.known, weights=named)) if named.any() else None
    beside: dict[str, float | None] = {f"ceiling/{name}": ceiling for name in INDIVIDUAL_SCORES}
    if not queries.asked.any():
        return beside | {f"chance/{name}": None for name in INDIVIDUAL_SCORES}
    individuals, weights = queries.individuals[queries.asked], queries.weights[queries.asked]
    beside["chance/map@5_individuals"] = chance_of_map(individuals, 1.0, weights=weights)
    beside["chance/recall@1_individuals"] = chance_of_recall(individuals, 1, weights=weights)
    return beside
