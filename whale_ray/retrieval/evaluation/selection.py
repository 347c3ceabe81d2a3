"""Selection of retrieval setting and threshold by cross-fitting, from the outcomes of all settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from whale_ray.errors import InputError
from whale_ray.retrieval.evaluation.bootstrap import FOLDS
from whale_ray.retrieval.evaluation.calibration import fit_calibration
from whale_ray.retrieval.evaluation.metrics import (
    ThresholdSteps,
    are_hits,
    average_precisions,
    best_thresholds,
    find_ranks,
    recall_at,
    threshold_steps,
)
from whale_ray.retrieval.evaluation.score_names import CUTOFFS, MAP, OBJECTIVES
from whale_ray.retrieval.search.voting import Ranking

_SIXTIETHS = 60


@dataclass(frozen=True)
class Queries:
    """The right answers of Q queries, each array of shape (Q,).

    Attributes:
        truth: Code of the individual in the query's gallery; -1 if it is not there.
        new: Whether the right answer is the unknown individual.
        images: Gallery images of the individual.
        gallery: Images in the query's gallery.
        individuals: Individuals in the query's gallery.
    """

    truth: np.ndarray
    new: np.ndarray
    images: np.ndarray
    gallery: np.ndarray
    individuals: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """Whether the individual has a gallery image, bool, shape (Q,)."""
        known: np.ndarray = self.truth >= 0
        return known

    @property
    def asked(self) -> np.ndarray:
        """Whether recall counts the query: known, and the gallery has another individual. bool, shape (Q,)."""
        asked: np.ndarray = self.known & (self.individuals > 1)
        return asked


@dataclass(frozen=True)
class Outcome:
    """What one retrieval setting gives each query.

    Attributes:
        ranks: Rank of the right individual, shape (Q,).
        image_ranks: Rank of the first right image, shape (Q,).
        cosines: Cosines of the first individuals, shape (Q, at most 5).
        images: Row of the first answer's nearest image; -1 without an answer. Shape (Q,).
        new: Whether the right answer is the unknown individual, shape (Q,).
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
    """Return the part of a ranking that scoring needs.

    Args:
        ranking: Ranking of the queries.
        image_ranks: Rank of the first right image, shape (Q,).
        queries: The right answers.
        nearest: Gallery position of the first answer's nearest image, shape (Q, at most 1).
        rows: Row of each gallery image, shape (N,).
    """
    return Outcome(
        ranks=find_ranks(ranking.individuals, queries.truth),
        image_ranks=image_ranks,
        cosines=ranking.cosines[:, :5].copy(),
        images=np.append(rows, -1)[first_column(nearest, -1)],
        new=queries.new,
    )


def join_queries(parts: Sequence[Queries]) -> Queries:
    """Return the queries of several galleries, concatenated."""
    return Queries(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Queries)))


def join_outcomes(parts: Sequence[Outcome]) -> Outcome:
    """Return the outcomes of several galleries, concatenated."""
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
    """Return recall@K, image_recall@K, map@5 and `threshold` on these queries.

    map@5 at its own best threshold is optimistic.

    Args:
        outcome: Outcome of one setting.
        queries: The right answers.

    Returns:
        Score by name; None if there is no query for it.
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
    """A chosen setting.

    Attributes:
        place: Index of the chosen outcome.
        threshold: Chosen threshold; None if no query is unknown.
    """

    place: int
    threshold: float | None


def choose_settings(
    outcomes: Sequence[Outcome], queries: Queries, groups: np.ndarray, *, objective: str
) -> list[Choice]:
    """Return the best outcome and threshold on each group of queries; the first of equals.

    Args:
        outcomes: Outcome of each setting.
        queries: The right answers.
        groups: bool, shape (G, Q).
        objective: Name of the score. If a recall counts no query of a group, map@5 decides.

    Raises:
        InputError: If the objective is unknown.
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
    """Return all queries, then for each fold the queries outside it (all if there are none).

    The result is bool, shape (1 + FOLDS, Q).
    """
    others = [_others(folds, fold) for fold in range(FOLDS)]
    return np.stack([np.ones(len(folds), dtype=bool), *others])


def _others(folds: np.ndarray, fold: int) -> np.ndarray:
    """Return the queries outside a fold, bool, shape (Q,); all if there are none."""
    others: np.ndarray = folds != fold
    return others if others.any() else np.ones(len(folds), dtype=bool)


@dataclass(frozen=True)
class CrossFittedOutcome:
    """What each query gets from the choice made without its fold; arrays of shape (Q,), NaN without a threshold.

    Attributes:
        place: Index of the chosen setting.
        ranks: Rank of the right individual.
        image_ranks: Rank of the first right image.
        precisions: Contribution to MAP@5.
        images: Row of the first answer's nearest image.
        cosines: Cosines of the candidates, shape (Q, at most 5).
        thresholds: Chosen threshold.
        match: Probability that the first candidate is right, from the other four folds; NaN without enough data.
        new: Probability that the animal is new, likewise.
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


def pool_cross_fitted(
    outcomes: Sequence[Outcome], choices: Sequence[Choice], folds: np.ndarray, queries: Queries
) -> CrossFittedOutcome:
    """Return the outcome of each query under the choice of its fold.

    Args:
        outcomes: Outcome of each setting.
        choices: Choice of each fold.
        folds: Fold of each query, shape (Q,).
        queries: The right answers.
    """
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
        said = (first_column(calibration.of_match(cosines), np.nan), calibration.of_new(cosines))
        parts.append((np.full(len(here), choice.place), *kept, cosines, np.full(len(here), threshold), *said))
        rows.append(here)
    back = np.argsort(np.concatenate(rows))
    return CrossFittedOutcome(*(np.concatenate(each)[back] for each in zip(*parts, strict=True)))


def first_column(values: np.ndarray, absent: float) -> np.ndarray:
    """Return the first column of `values` (Q, R); `absent` if there is none.

    Args:
        values: Shape (Q, R).
        absent: Value for R = 0.
    """
    return values[:, 0] if values.shape[1] else np.full(len(values), absent, dtype=values.dtype)
