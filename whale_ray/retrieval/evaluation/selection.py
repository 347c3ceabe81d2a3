"""Selection of retrieval setting and threshold by cross-fitting, from the outcomes of all settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from whale_ray.errors import InputError
from whale_ray.retrieval.evaluation.calibration import fit_calibration
from whale_ray.retrieval.evaluation.metrics import (
    DEPTH,
    are_hits,
    average_precisions,
    values_of_ranks,
)
from whale_ray.retrieval.evaluation.outcomes import Outcome, Queries, first_column
from whale_ray.retrieval.evaluation.query_clusters import FOLDS, nan_to_none
from whale_ray.retrieval.evaluation.score_names import (
    CUTOFFS,
    INDIVIDUAL_SCORES,
    MAP,
    OBJECTIVES,
    averages_individuals,
)
from whale_ray.retrieval.evaluation.thresholds.best_thresholds import best_of_settings
from whale_ray.retrieval.evaluation.thresholds.threshold_steps import SIXTIETHS, best_thresholds

FEWEST_OF_SPECIES = 10
"""Known and new queries, of each so many, that a species needs for a threshold of its own."""
_CELLS = 2**20  # cosines of several settings that are compared at once
_DIGITS = 9  # sums that differ by rounding only are equal, and the first setting wins


def plain_scores(outcome: Outcome, queries: Queries) -> dict[str, float | None]:
    """Return recall@K, image_recall@K, map@5, `threshold` and the scores averaged over individuals on these queries.

    map@5 at its own best threshold is optimistic.

    Args:
        outcome: Outcome of one setting.
        queries: The right answers.

    Returns:
        Score by name; None if there is no query for it.
    """
    return {name: nan_to_none(values[0]) for name, values in scores_of_settings([outcome], queries).items()}


def scores_of_settings(outcomes: Sequence[Outcome], queries: Queries) -> dict[str, np.ndarray]:
    """Return `plain_scores` of several settings, float64, each of shape (S,); NaN if there is no query for a score.

    Args:
        outcomes: Outcome of each setting, at least one.
        queries: The right answers.
    """
    at_once = max(1, _CELLS // max(1, DEPTH * len(queries.new)))
    parts = [_scores(outcomes[start : start + at_once], queries) for start in range(0, len(outcomes), at_once)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _scores(outcomes: Sequence[Outcome], queries: Queries) -> dict[str, np.ndarray]:
    ranks, image_ranks = (np.stack([getattr(one, name) for one in outcomes]) for name in ("ranks", "image_ranks"))
    scores: dict[str, np.ndarray] = {}
    none, asked = np.full(len(outcomes), np.nan), queries.asked
    for name, each in (("recall", ranks[:, asked]), ("image_recall", image_ranks[:, asked])):
        for cutoff in CUTOFFS:
            scores[f"{name}@{cutoff}"] = are_hits(each, cutoff).mean(axis=1) if asked.any() else none
    cosines = np.full((*ranks.shape, DEPTH), np.nan)
    for place, one in enumerate(outcomes):
        cosines[place, :, : one.cosines.shape[1]] = one.cosines
    thresholds, sums = best_of_settings(cosines, ranks, queries.new)
    scores[MAP] = sums / (SIXTIETHS * len(queries.new)) if len(queries.new) else none
    scores["threshold"] = thresholds if queries.new.any() else none
    for name in INDIVIDUAL_SCORES:
        values = values_of_ranks(name, ranks, image_ranks)
        scores[name] = np.average(values, axis=1, weights=queries.weights) if asked.any() else none
    return scores


@dataclass(frozen=True)
class Choice:
    """A chosen setting.

    Attributes:
        place: Index of the chosen outcome.
        threshold: Chosen threshold; None if no query is unknown.
        of_species: Threshold of each species with enough queries; the others have the common one.
    """

    place: int
    threshold: float | None
    of_species: Mapping[str, float] = field(default_factory=dict)

    def thresholds(self, species: np.ndarray) -> np.ndarray:
        """Return the threshold of each query, float64, shape (Q,), by its species; NaN without a threshold."""
        common = np.nan if self.threshold is None else self.threshold
        return np.array([self.of_species.get(str(one), common) for one in species], dtype=np.float64)


def choose_settings(
    outcomes: Sequence[Outcome], queries: Queries, groups: np.ndarray, *, objective: str
) -> list[Choice]:
    """Return the best outcome and threshold on each group of queries; the first of equals.

    Args:
        outcomes: Outcome of each setting.
        queries: The right answers.
        groups: bool, shape (G, Q).
        objective: Name of the score. If it counts no query of a group, map@5 decides.

    Raises:
        InputError: If the objective is unknown.
    """
    if objective not in OBJECTIVES:
        raise InputError(f"an objective is one of {', '.join(OBJECTIVES)}, but got {objective!r}. Name one of them")
    by_map = ~(groups & queries.asked).any(axis=1) | (objective == MAP)
    values = np.zeros((len(outcomes), len(groups)))
    if not by_map.all():
        values[:] = [_sums(outcome, queries, groups, objective) for outcome in outcomes]
    if by_map.any():
        values[:, by_map] = [best_thresholds(outcome.steps, groups[by_map])[1] for outcome in outcomes]
    places = values.argmax(axis=0)
    return [_settle(int(place), outcomes[place], queries, group) for place, group in zip(places, groups, strict=True)]


def _settle(place: int, outcome: Outcome, queries: Queries, group: np.ndarray) -> Choice:
    if not (group & queries.new).any():
        return Choice(place, None)
    species = sorted({*queries.species[group].tolist()} - {""})
    groups = [group, *(group & (queries.species == one) for one in species)]
    common, *own = best_thresholds(outcome.steps, np.stack(groups))[0].tolist()
    enough = [min((part & queries.new).sum(), (part & queries.known).sum()) >= FEWEST_OF_SPECIES for part in groups[1:]]
    return Choice(place, common, {one: value for one, value, has in zip(species, own, enough, strict=True) if has})


def _sums(outcome: Outcome, queries: Queries, groups: np.ndarray, objective: str) -> np.ndarray:
    """Return the weighted sum of an objective over the asked queries of each group, shape (G,).

    Groups hold whole individuals, so that the largest sum has the largest mean.
    """
    weights = queries.weights if averages_individuals(objective) else queries.asked
    sums = groups @ (weights * values_of_ranks(objective, outcome.ranks, outcome.image_ranks))
    return np.asarray(np.round(sums, _DIGITS))


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
    """Outcome of each query with the setting chosen without its fold; arrays of shape (Q,), NaN without a threshold.

    Attributes:
        place: Index of the chosen setting.
        ranks: Rank of the right individual.
        image_ranks: Rank of the first right image.
        precisions: Contribution to MAP@5.
        images: Row of the first answer's nearest image.
        cosines: Cosines of the candidates, shape (Q, at most 5).
        thresholds: Chosen threshold of the query's species.
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
        thresholds = choice.thresholds(queries.species[here])
        precisions = average_precisions(
            outcome.cosines[here], outcome.ranks[here], queries.new[here], threshold=thresholds
        )
        kept = (outcome.ranks[here], outcome.image_ranks[here], precisions, outcome.images[here])
        cosines = outcome.cosines[here]
        others = _others(folds, fold)
        calibration = fit_calibration(
            outcome.cosines[others],
            outcome.ranks[others],
            ~queries.known[others],
            queries.species[others],
            strangers=outcome.strangers[others],
        )
        match, new = calibration.of_answers(cosines, queries.species[here], strangers=outcome.strangers[here])
        parts.append((np.full(len(here), choice.place), *kept, cosines, thresholds, first_column(match, np.nan), new))
        rows.append(here)
    back = np.argsort(np.concatenate(rows))
    return CrossFittedOutcome(*(np.concatenate(each)[back] for each in zip(*parts, strict=True)))
