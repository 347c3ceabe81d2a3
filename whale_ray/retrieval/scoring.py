"""Scores of one or of many outcomes: who is a known query, which setting and threshold are best, what they are worth.

Knows what a ranking gave each query. Knows neither vectors nor how the ranking came about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from whale_ray.errors import InputError
from whale_ray.retrieval.calibration import fit_calibration
from whale_ray.retrieval.metrics import (
    CUTOFFS,
    ThresholdSteps,
    are_hits,
    average_precisions,
    best_thresholds,
    chance_of_image_recall,
    chance_of_map,
    chance_of_recall,
    find_ranks,
    recall_at,
    threshold_steps,
)
from whale_ray.retrieval.open_set import beside_open_set, open_set_scores
from whale_ray.retrieval.ranking import Ranking
from whale_ray.retrieval.resampling import FEWEST_CLUSTERS, FOLDS, bootstrap_interval, enough_clusters

MAP = "map@5"
OBJECTIVES = (*(f"recall@{cutoff}" for cutoff in CUTOFFS), *(f"image_recall@{cutoff}" for cutoff in CUTOFFS), MAP)
BRIERS = ("brier/match", "brier/new")
IMAGES_PER_INDIVIDUAL = ((1, "1"), (2, "2-3"), (4, "4-9"), (10, "10+"))
_SIXTIETHS = 60


@dataclass(frozen=True)
class Queries:
    """The right answers of Q queries.

    truth: (Q,) code of the individual, -1 where the gallery has none of it. new: bool (Q,), the right answer is the
    unknown individual. images: (Q,), how many gallery images show the individual. gallery: N; individuals: C.
    """

    truth: np.ndarray
    new: np.ndarray
    images: np.ndarray
    gallery: int
    individuals: int

    @property
    def known(self) -> np.ndarray:
        """Whether the individual has a gallery image: bool (Q,)."""
        known: np.ndarray = self.truth >= 0
        return known


@dataclass(frozen=True)
class Outcome:
    """What one retrieval setting gave each query: ranks (Q,), the first five cosines (Q, 5), the first answer (Q,)."""

    ranks: np.ndarray
    image_ranks: np.ndarray
    cosines: np.ndarray
    answers: np.ndarray
    answer_images: np.ndarray
    steps: ThresholdSteps


def read_outcome(ranking: Ranking, image_ranks: np.ndarray, queries: Queries) -> Outcome:
    """What is kept of a ranking for scoring: little, since there may be hundreds."""
    ranks = find_ranks(ranking.individuals, queries.truth)
    cosines = ranking.cosines[:, :5].copy()
    return Outcome(
        ranks=ranks,
        image_ranks=image_ranks,
        cosines=cosines,
        answers=ranking.individuals[:, :1].copy(),
        answer_images=ranking.images[:, :1].copy(),
        steps=threshold_steps(cosines, ranks, queries.new),
    )


def plain_scores(outcome: Outcome, queries: Queries) -> dict[str, float | None]:
    """recall@K, image_recall@K, map@5 and `threshold` on these very queries: map@5 at its best threshold flatters.

    None where there is no query to score: no known one, none at all, no unknown one to set a threshold by.
    """
    scores: dict[str, float | None] = {}
    for name, ranks in (("recall", outcome.ranks), ("image_recall", outcome.image_ranks)):
        scores |= {f"{name}@{cutoff}": recall_at(ranks, queries.known, cutoff) for cutoff in CUTOFFS}
    thresholds, sums = best_thresholds(outcome.steps, np.ones((1, len(queries.new)), dtype=bool))
    scores[MAP] = float(sums[0]) / (_SIXTIETHS * len(queries.new)) if len(queries.new) else None
    scores["threshold"] = float(thresholds[0]) if queries.new.any() else None
    return scores


@dataclass(frozen=True)
class Choice:
    """The place of the best outcome, and its threshold (None where no unknown query says where to put it)."""

    place: int
    threshold: float | None


def choose(outcomes: Sequence[Outcome], queries: Queries, groups: np.ndarray, *, objective: str) -> list[Choice]:
    """The best outcome and threshold on each group of queries (bool (G, Q)); the first of equals.

    A recall is no objective where no query of the group is known: then map@5 decides.

    Raises: InputError for an objective that is not computed.
    """
    if objective not in OBJECTIVES:
        raise InputError(f"an objective is one of {', '.join(OBJECTIVES)}, but got {objective!r}. Name one of them")
    known_groups = groups & queries.known
    values = np.stack([known_groups @ _hits(outcome, objective) for outcome in outcomes])
    by_map = ~known_groups.any(axis=1) | (objective == MAP)
    if by_map.any():
        values[:, by_map] = [best_thresholds(outcome.steps, groups[by_map])[1] for outcome in outcomes]
    places = values.argmax(axis=0)
    return [_settle(int(place), outcomes[place], queries, group) for place, group in zip(places, groups, strict=True)]


def _settle(place: int, outcome: Outcome, queries: Queries, group: np.ndarray) -> Choice:
    if not (group & queries.new).any():
        return Choice(place, None)
    return Choice(place, float(best_thresholds(outcome.steps, group[None])[0][0]))


def _hits(outcome: Outcome, objective: str) -> np.ndarray:
    name, _, cutoff = objective.partition("@")
    return are_hits(outcome.image_ranks if name == "image_recall" else outcome.ranks, int(cutoff)).astype(np.int64)


def groups_for_choosing(folds: np.ndarray) -> np.ndarray:
    """All queries, then for each fold the queries outside it (all, where there are none): bool (1 + FOLDS, Q)."""
    others = [_others(folds, fold) for fold in range(FOLDS)]
    return np.stack([np.ones(len(folds), dtype=bool), *others])


def _others(folds: np.ndarray, fold: int) -> np.ndarray:
    """The queries outside a fold, bool (Q,); all, where there are none."""
    others: np.ndarray = folds != fold
    return others if others.any() else np.ones(len(folds), dtype=bool)


@dataclass(frozen=True)
class Pooled:
    """What each query got from the choice made without its fold; (Q,) each, NaN where there is no threshold.

    cosines: (Q, up to 5), of the ranked candidates. match, new: the probabilities, from the same four folds, that the
    first candidate is right and that the animal is new; NaN where there was too little to learn them from.
    """

    place: np.ndarray
    ranks: np.ndarray
    image_ranks: np.ndarray
    precisions: np.ndarray
    answers: np.ndarray
    answer_images: np.ndarray
    cosines: np.ndarray
    thresholds: np.ndarray
    match: np.ndarray
    new: np.ndarray


def pool(outcomes: Sequence[Outcome], choices: Sequence[Choice], folds: np.ndarray, queries: Queries) -> Pooled:
    """The outcome of each query under the choice of its fold (`choices[fold]`)."""
    parts, rows = [], []
    for fold, choice in enumerate(choices):
        here, outcome = np.flatnonzero(folds == fold), outcomes[choice.place]
        threshold = np.nan if choice.threshold is None else choice.threshold
        precisions = average_precisions(
            outcome.cosines[here], outcome.ranks[here], queries.new[here], threshold=choice.threshold
        )
        kept = (outcome.ranks[here], outcome.image_ranks[here], precisions)
        first = (first_of(outcome.answers[here], -1), first_of(outcome.answer_images[here], -1))
        cosines = outcome.cosines[here]
        others = _others(folds, fold)
        calibration = fit_calibration(outcome.cosines[others], outcome.ranks[others], ~queries.known[others])
        said = (first_of(calibration.of_match(cosines), np.nan), calibration.of_new(cosines))
        parts.append((np.full(len(here), choice.place), *kept, *first, cosines, np.full(len(here), threshold), *said))
        rows.append(here)
    back = np.argsort(np.concatenate(rows))
    return Pooled(*(np.concatenate(each)[back] for each in zip(*parts, strict=True)))


def first_of(values: np.ndarray, absent: float) -> np.ndarray:
    """The first column of `values` (Q, R); `absent` where there is none."""
    return values[:, 0] if values.shape[1] else np.full(len(values), absent, dtype=values.dtype)


def scores_with_intervals(pooled: Pooled, queries: Queries, clusters: np.ndarray, *, seed: int) -> dict[str, Any]:
    """Every score with `_low` and `_high`, its `ceiling/`, `chance/` and `trivial/`, and the counts of queries.

    A score that no query can give is None; `reason` then says why.
    """
    hits = [are_hits(ranks, cutoff) for ranks in (pooled.ranks, pooled.image_ranks) for cutoff in CUTOFFS]
    values = np.stack([*hits, pooled.precisions], axis=1).astype(np.float64)
    counted = np.stack([queries.known] * len(hits) + [np.ones(len(values), dtype=bool)], axis=1)
    scores: dict[str, Any] = {"queries": len(values), "known_queries": int(queries.known.sum())}
    if not len(values):
        return scores | dict.fromkeys(OBJECTIVES) | {"reason": "no query: there is no validation photograph"}
    scores |= _means(OBJECTIVES, values, counted, clusters, seed=seed)
    scores |= _open_set(pooled, queries, clusters, seed=seed) | _briers(pooled, queries, clusters, seed=seed)
    scores["by_images"] = _by_images(pooled, queries, clusters, seed=seed)
    if reasons := _reasons(queries, clusters):
        scores["reason"] = "; ".join(reasons)
    return scores | _beside(queries)


def _means(
    names: Sequence[str], values: np.ndarray, counted: np.ndarray, clusters: np.ndarray, *, seed: int
) -> dict[str, float | None]:
    """The mean of each column of `values` (Q, M) over its counted queries, with `_low` and `_high`."""
    lows, highs = bootstrap_interval(values, counted, clusters, seed=seed)
    scores: dict[str, float | None] = {}
    for place, name in enumerate(names):
        here = counted[:, place]
        scores[name] = float(values[here, place].mean()) if here.any() else None
        scores[f"{name}_low"], scores[f"{name}_high"] = _number(lows[place]), _number(highs[place])
    return scores


def _open_set(pooled: Pooled, queries: Queries, clusters: np.ndarray, *, seed: int) -> dict[str, float | None]:
    first = first_of(pooled.cosines, np.nan)
    said_new = None if np.isnan(pooled.thresholds).any() else first < pooled.thresholds
    right = (pooled.ranks == 1) & (False if said_new is None else ~said_new)
    scores = open_set_scores(first, right, said_new, known=queries.known, clusters=clusters, seed=seed)
    return scores | beside_open_set(scores)


def _briers(pooled: Pooled, queries: Queries, clusters: np.ndarray, *, seed: int) -> dict[str, float | None]:
    """brier/match and brier/new of the cross-fitted probabilities; trivial/: of always saying how frequent it is."""
    outcomes = np.stack([pooled.ranks == 1, ~queries.known], axis=1).astype(np.float64)
    said = np.stack([pooled.match, pooled.new], axis=1)
    given = ~np.isnan(said)
    scores = _means(BRIERS, np.where(given, said - outcomes, 0.0) ** 2, given, clusters, seed=seed)
    shares = [outcomes[mask, place].mean() if mask.any() else np.nan for place, mask in enumerate(given.T)]
    trivial = {f"trivial/{name}": _number(share * (1 - share)) for name, share in zip(BRIERS, shares, strict=True)}
    return scores | trivial


def _by_images(pooled: Pooled, queries: Queries, clusters: np.ndarray, *, seed: int) -> list[dict[str, Any]]:
    """recall@1 and map@5 of the known queries by how many gallery images their individual has."""
    values = np.stack([are_hits(pooled.ranks, 1), pooled.precisions], axis=1).astype(np.float64)
    rows: list[dict[str, Any]] = []
    for (least, name), (beyond, _) in pairwise([*IMAGES_PER_INDIVIDUAL, (np.inf, "")]):
        here = queries.known & (queries.images >= least) & (queries.images < beyond)
        scores = _means(("recall@1", MAP), values, np.stack([here, here], axis=1), clusters, seed=seed)
        rows.append({"images": name, "queries": int(here.sum()), **scores})
    return rows


def _reasons(queries: Queries, clusters: np.ndarray) -> list[str]:
    """Why some scores or intervals cannot be given."""
    reasons = []
    if not queries.known.any():
        reasons.append("no known query: no validation photograph is of an individual with a gallery image")
    elif queries.individuals == 1:
        reasons.append("the gallery holds one individual only: every answer names it, so that recall says nothing")
    if queries.known.all():
        reasons.append("no unknown query: auroc, baks, baus, the threshold and the probability of new need some")
    for kind, mask in (("known", queries.known), ("unknown", ~queries.known)):
        count = len(np.unique(clusters[mask]))
        if mask.any() and not enough_clusters(count):
            reasons.append(
                f"no interval over {kind} queries: they are of {count} individuals or groups, and an interval needs "
                f"{FEWEST_CLUSTERS}"
            )
    return reasons


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _beside(queries: Queries) -> dict[str, float | None]:
    """What each score has to be read against: the most that can be had, random order, and `new` for everything."""
    known, named, total = (int(each.sum()) for each in (queries.known, ~queries.new, queries.new | True))
    ceiling = known / named if named else None
    beside: dict[str, float | None] = {f"ceiling/{name}": ceiling for name in OBJECTIVES}
    beside["ceiling/map@5"] = (known + total - named) / total
    beside["trivial/map@5"] = (total - named) / total
    beside["chance/map@5"] = chance_of_map(queries.individuals, known / total) if known else 0.0
    images = queries.images[queries.known]
    for cutoff in CUTOFFS:
        beside[f"chance/recall@{cutoff}"] = chance_of_recall(queries.individuals, cutoff) if known else None
        by_image = chance_of_image_recall(images, queries.gallery, cutoff) if known else None
        beside[f"chance/image_recall@{cutoff}"] = by_image
    return beside
