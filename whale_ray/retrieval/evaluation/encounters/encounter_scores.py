"""Scores of encounters beside those of single photographs, and the calibration of encounters, cross-fitted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from whale_ray.retrieval.evaluation.calibration import Calibration
from whale_ray.retrieval.evaluation.decisions import Decision, odds_ratio
from whale_ray.retrieval.evaluation.encounters.encounter_calibration import (
    EncounterCalibration,
    fit_encounter_calibration,
)
from whale_ray.retrieval.evaluation.encounters.encounter_rankings import EncounterRankings, rank_encounters
from whale_ray.retrieval.evaluation.encounters.encounter_sets import EncounterSet, find_encounters
from whale_ray.retrieval.evaluation.encounters.fused_encounters import fuse_encounters
from whale_ray.retrieval.evaluation.encounters.simulated_new_encounters import encounters_to_hold_out
from whale_ray.retrieval.evaluation.open_set_metrics import auroc
from whale_ray.retrieval.evaluation.query_clusters import FOLDS, means_with_intervals, nan_to_none
from whale_ray.retrieval.evaluation.searches.search_runs import SearchRuns
from whale_ray.retrieval.fusion.fusion_model import FusionModel
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting

_NAMES = ("recall@1", "brier/match", "brier/new", "new/known", "new/new")


@dataclass(frozen=True)
class EncounterEvaluation:
    """Calibration and scores of encounters.

    Attributes:
        calibration: Calibration fitted on all encounters; None if there are too few.
        scores: `encounters`: numbers of encounters, and `rows`: cross-fitted scores of the first photograph, of all
            photographs, and of all photographs with the calibration of single ones; where scores are fused, also of
            all photographs by the embedding alone. Empty without a calibration.
    """

    calibration: EncounterCalibration | None
    scores: dict[str, Any]


NO_EVALUATION = EncounterEvaluation(None, {})


def evaluate_encounters(
    held: SearchRuns,
    setting: RetrievalSetting,
    *,
    single: Calibration,
    decision: Decision | None,
    folds: np.ndarray,
    clusters: np.ndarray,
    groups: np.ndarray | None,
    seed: int = 0,
) -> EncounterEvaluation:
    """Return calibration and scores of the encounters among the queries of an evaluation, for its chosen setting.

    New animals weigh as much as among the single queries, so that one decision holds for both. With few encounters of
    new animals, known encounters are ranked without their individual as well. Their individuals may have been trained
    on, and are then farther from others than new animals are. A setting with local features ranks encounters by a
    fusion that is fitted on them; by the embedding alone with too few of them, or if the evidence of known encounters
    without their individual is needed and was not gathered, as in older runs.

    Args:
        held: Galleries and queries.
        setting: The retrieval setting, chosen on all queries.
        single: Calibration of single photographs, fitted on all queries.
        decision: Decision between known and new; None if there is none.
        folds: Fold of each query, shape (Q,).
        clusters: Cluster of each query, shape (Q,).
        groups: Group of each photograph, "" for none, shape (N,); None if there are no groups.
        seed: Seed of drawn groups and intervals.
    """
    share = float((~held.queries.known).mean()) if len(folds) else 0.0
    if not 0.0 < share < 1.0:
        return NO_EVALUATION
    asking = np.zeros(len(held.individuals), dtype=bool)
    asking[held.rows] = True
    encounters = find_encounters(
        held.individuals,
        asking=asking,
        splits=held.splits,
        groups=groups,
        unknown_label=held.unknown_label,
        seed=seed,
    )
    if not encounters.rows:
        return NO_EVALUATION
    fold_of, cluster_of, is_known = (np.zeros(len(asking), dtype=np.int64) for _ in range(3))
    fold_of[held.rows], cluster_of[held.rows], is_known[held.rows] = folds, clusters, held.queries.known
    held_out = encounters_to_hold_out(encounters, is_known.astype(bool))
    scorer = _Scorer(share, decision, fold_of, cluster_of, seed)
    answers = _rank(held, setting, encounters, held_out=held_out, folds=fold_of, clusters=cluster_of)
    calibration = scorer.fit(answers.several, np.ones(len(answers.several.known), dtype=bool))
    if calibration is None:
        return NO_EVALUATION
    rows = [
        {"photographs": "first", **scorer.scores(answers.one)},
        {"photographs": "all", **scorer.scores(answers.several)},
        {"photographs": "all, as single", **scorer.scores(answers.several, single)},
    ]
    if answers.by_embedding is not None:
        rows.append({"photographs": "all, by embedding", **scorer.scores(answers.by_embedding)})
    counts = _counts(encounters, answers.several)
    return EncounterEvaluation(replace(calibration, fusion=answers.fusion), {"encounters": {**counts, "rows": rows}})


@dataclass(frozen=True)
class _Answers:
    """Rankings of the first photograph and of all photographs, and the latter without the fusion if there is one."""

    one: EncounterRankings
    several: EncounterRankings
    by_embedding: EncounterRankings | None = None
    fusion: FusionModel | None = None


def _rank(
    held: SearchRuns, setting: RetrievalSetting, encounters: EncounterSet, *, held_out: EncounterSet, **options: Any
) -> _Answers:
    plain = replace(setting, local="none")
    several, one = (rank_encounters(held, plain, encounters, most=most, held_out=held_out) for most in (None, 1))
    if setting.local != "none":
        options |= {"held_out": held_out}
        fused, first = (fuse_encounters(held, setting, encounters, most=most, **options) for most in (None, 1))
        if fused and first:
            return _Answers(first.rankings, fused.rankings, several, fused.model)
    return _Answers(one, several)


def _counts(encounters: EncounterSet, found: EncounterRankings) -> dict[str, Any]:
    known, playing = int(found.known.sum()), len(found.known) - len(encounters.rows)
    return {
        "known": known,
        "new": len(found.known) - known - playing,
        "drawn": int(encounters.drawn.sum()),
        "playing_new": playing,
        "mean_photographs": float(np.mean(found.photographs)),
    }


@dataclass(frozen=True)
class _Scorer:
    """Cross-fitting of encounters: share of new animals, fold and cluster of each photograph."""

    share: float
    decision: Decision | None
    folds: np.ndarray
    clusters: np.ndarray
    seed: int

    def weights(self, known: np.ndarray) -> np.ndarray:
        """Return weights, shape (Q,), by which new encounters have their share; 1 of a known one."""
        here = float((~known).mean())
        return np.where(known, 1.0, odds_ratio(here, self.share) if 0.0 < here < 1.0 else 1.0)

    def fit(self, found: EncounterRankings, part: np.ndarray) -> EncounterCalibration | None:
        """Fit on a part of the encounters, bool, shape (Q,)."""
        return fit_encounter_calibration(
            found.cosines[part],
            found.ranks[part],
            ~found.known[part],
            photographs=found.photographs[part],
            weights=self.weights(found.known[part]),
            strangers=found.strangers[part],
        )

    def cross_fitted(self, found: EncounterRankings) -> np.ndarray:
        """Return the probabilities of a match and of new, shape (Q, 2), each from the other folds."""
        probabilities = np.full((len(found.known), 2), np.nan)
        for fold in range(FOLDS):
            here = self.folds[found.first] == fold
            fitted = self.fit(found, ~here)
            if fitted is not None:
                probabilities[here] = _probabilities(fitted.at, found)[here]
        return probabilities

    def scores(self, found: EncounterRankings, calibration: Calibration | None = None) -> dict[str, Any]:
        """Return recall@1, Brier scores, AUROC and the shares called new, with intervals over clusters.

        Args:
            found: The rankings.
            calibration: Gives the probabilities; None for cross-fitted calibrations.
        """
        fitted = self.cross_fitted(found) if calibration is None else _probabilities(lambda _: calibration, found)
        match, new = fitted.T
        assumed = new if self.decision is None else self.decision.of_new(new)
        given = ~np.isnan(new)
        weights = self.weights(found.known) * given
        right, known = found.ranks == 1, found.known
        errors = [(np.nan_to_num(match) - right) ** 2, (np.nan_to_num(new) - ~known) ** 2]
        says_new = np.nan_to_num(assumed) >= 0.5
        values = np.column_stack([right, *errors, says_new, says_new]).astype(np.float64)
        each = np.column_stack([known, weights, weights, known & given, ~known & given]).astype(np.float64)
        scores = means_with_intervals(_NAMES, values, each, self.clusters[found.first], seed=self.seed)
        return scores | {"auroc": nan_to_none(float(auroc(-new[given], known[given])[0]))}


def _probabilities(calibration_at: Callable[[int], Calibration], found: EncounterRankings) -> np.ndarray:
    """Return the probabilities of a match and of new, shape (Q, 2), by the number of photographs."""
    probabilities = np.full((len(found.known), 2), np.nan)
    for count in np.unique(found.photographs).tolist():
        here = found.photographs == count
        calibration, cosines = calibration_at(count), found.cosines[here]
        match, new = calibration.of_answers(cosines, strangers=found.strangers[here])
        probabilities[here] = np.column_stack([match[:, 0], new])
    return probabilities
