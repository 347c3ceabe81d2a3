"""Outcomes of many settings: who is a known query, which setting and threshold are best, what each query then got.

Knows what a ranking gave each query. Knows neither vectors nor how the ranking came about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from whale_ray.errors import InputError
from whale_ray.retrieval.evaluation.bootstrap import FOLDS
from whale_ray.retrieval.evaluation.calibration import fit_calibration
from whale_ray.retrieval.evaluation.metrics import (
    CUTOFFS,
    ThresholdSteps,
    are_hits,
    average_precisions,
    best_thresholds,
    find_ranks,
    recall_at,
    threshold_steps,
)
from whale_ray.retrieval.search.voting import Ranking

MAP = "map@5"
OBJECTIVES = (*(f"recall@{cutoff}" for cutoff in CUTOFFS), *(f"image_recall@{cutoff}" for cutoff in CUTOFFS), MAP)
_SIXTIETHS = 60


@dataclass(frozen=True)
class Queries:
    """The right answers of Q queries; (Q,) each.

    truth: code of the individual in the query's gallery, -1 where that has none of it. new: whether the right answer
    is the unknown individual. images: how many gallery images show the individual. gallery, individuals: how many
    images and individuals the query's gallery has.
    """

    truth: np.ndarray
    new: np.ndarray
    images: np.ndarray
    gallery: np.ndarray
    individuals: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """Whether the individual has a gallery image: bool (Q,)."""
        known: np.ndarray = self.truth >= 0
        return known

    @property
    def asked(self) -> np.ndarray:
        """Whether a recall can count the query: known, and its gallery holds somebody else as well; bool (Q,)."""
        asked: np.ndarray = self.known & (self.individuals > 1)
        return asked


@dataclass(frozen=True)
class Outcome:
    """What one retrieval setting gave each query.

    ranks, image_ranks: (Q,). cosines: (Q, up to 5), of the first individuals, as the ranking has them. images: (Q,),
    row of the first answer's nearest image, -1 where there is no answer. new: (Q,), of the queries.
    """

    ranks: np.ndarray
    image_ranks: np.ndarray
    cosines: np.ndarray
    images: np.ndarray
    new: np.ndarray

    @cached_property
    def steps(self) -> ThresholdSteps:
        """map@5 as a function of the threshold."""
        return threshold_steps(self.cosines, self.ranks, self.new)


def read_outcome(
    ranking: Ranking, image_ranks: np.ndarray, queries: Queries, *, nearest: np.ndarray, rows: np.ndarray
) -> Outcome:
    """What is kept of a ranking for scoring: little, since there may be hundreds.

    nearest: (Q, up to 1), the first answer's nearest image in the gallery. rows: (N,), of the gallery's images.
    """
    return Outcome(
        ranks=find_ranks(ranking.individuals, queries.truth),
        image_ranks=image_ranks,
        cosines=ranking.cosines[:, :5].copy(),
        images=np.append(rows, -1)[first_of(nearest, -1)],
        new=queries.new,
    )


def join_queries(parts: Sequence[Queries]) -> Queries:
    """The queries of several galleries, one after the other."""
    return Queries(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Queries)))


def join_outcomes(parts: Sequence[Outcome]) -> Outcome:
    """What one setting gave the queries of several galleries, one after the other."""
    widest = max(part.cosines.shape[1] for part in parts)
    padded = [
        np.pad(one.cosines, ((0, 0), (0, widest - one.cosines.shape[1])), constant_values=np.nan) for one in parts
    ]
    names = ("ranks", "image_ranks", "images", "new")
    return Outcome(
        cosines=np.concatenate(padded),
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names},
    )


def plain_scores(outcome: Outcome, queries: Queries) -> dict[str, float | None]:
    """recall@K, image_recall@K, map@5 and `threshold` on these very queries: map@5 at its best threshold flatters.

    None where there is no query to score: no known one, none at all, no unknown one to set a threshold by.
    """
    scores: dict[str, float | None] = {}
    for name, ranks in (("recall", outcome.ranks), ("image_recall", outcome.image_ranks)):
        scores |= {f"{name}@{cutoff}": recall_at(ranks, queries.asked, cutoff) for cutoff in CUTOFFS}
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

    A recall is no objective where it can count no query of the group: then map@5 decides.

    Raises: InputError for an objective that is not computed.
    """
    if objective not in OBJECTIVES:
        raise InputError(f"an objective is one of {', '.join(OBJECTIVES)}, but got {objective!r}. Name one of them")
    asked = groups & queries.asked
    values = np.stack([asked @ _hits(outcome, objective) for outcome in outcomes])
    by_map = ~asked.any(axis=1) | (objective == MAP)
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
    images: np.ndarray
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
        kept = (outcome.ranks[here], outcome.image_ranks[here], precisions, outcome.images[here])
        cosines = outcome.cosines[here]
        others = _others(folds, fold)
        calibration = fit_calibration(outcome.cosines[others], outcome.ranks[others], ~queries.known[others])
        said = (first_of(calibration.of_match(cosines), np.nan), calibration.of_new(cosines))
        parts.append((np.full(len(here), choice.place), *kept, cosines, np.full(len(here), threshold), *said))
        rows.append(here)
    back = np.argsort(np.concatenate(rows))
    return Pooled(*(np.concatenate(each)[back] for each in zip(*parts, strict=True)))


def first_of(values: np.ndarray, absent: float) -> np.ndarray:
    """The first column of `values` (Q, R); `absent` where there is none."""
    return values[:, 0] if values.shape[1] else np.full(len(values), absent, dtype=values.dtype)
