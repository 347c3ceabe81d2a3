"""Scores of every retrieval setting of a trial, with cross-fitted choice of setting and threshold.

One search serves all settings that use the same vectors; votes and thresholds are evaluated on its result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from whale_ray.errors import InputError
from whale_ray.retrieval.evaluation.calibration import Calibration, fit_calibration
from whale_ray.retrieval.evaluation.decisions import BALANCED, Decision, DecisionRule
from whale_ray.retrieval.evaluation.encounters.encounter_calibration import EncounterCalibration
from whale_ray.retrieval.evaluation.encounters.encounter_scores import evaluate_encounters
from whale_ray.retrieval.evaluation.evaluation_tables import SettingQueries, query_table, setting_queries, setting_table
from whale_ray.retrieval.evaluation.outcomes import Outcome, fuse_outcome
from whale_ray.retrieval.evaluation.query_clusters import clusters_and_folds
from whale_ray.retrieval.evaluation.scores_with_intervals import scores_with_intervals
from whale_ray.retrieval.evaluation.searches.search_runs import Evidence, SearchRuns
from whale_ray.retrieval.evaluation.selection import (
    choose_settings,
    groups_for_choosing,
    plain_scores,
    pool_cross_fitted,
)
from whale_ray.retrieval.fusion.evaluation_evidence import size_of_shortlists
from whale_ray.retrieval.fusion.fusion_model import FusionModel
from whale_ray.retrieval.search.proxy_classifier import ClassProxies
from whale_ray.retrieval.search.retrieval_settings import (
    RetrievalSetting,
    distinct_settings,
    without_classifier,
    without_local,
)

__all__ = [
    "Evaluation",
    "RetrievalSetting",
    "distinct_settings",
    "evaluate",
    "score_setting",
]


@dataclass(frozen=True)
class Evaluation:
    """All scores of a trial.

    Attributes:
        table: One row per setting, scored on all queries, not cross-fitted.
        best: Setting chosen on all folds, for use.
        threshold: Threshold chosen on all folds; None if no query is unknown.
        species_thresholds: The same for each species with enough queries.
        calibration: Calibration fitted on all folds.
        decision: Decision between known and new by the calibration; None if the threshold decides.
        scores: Cross-fitted scores with intervals, ceiling, chance and trivial answer; None with a `reason` if a score
            cannot be computed.
        queries: One row per query, answered with the choice of its fold; `cluster` is the unit of paired intervals.
        by_setting: What each setting gives each query.
        fusion: Fusion of embedding and local evidence for `best`, fitted on all folds; None if it has none.
        encounters: Calibration of several photographs of one animal; None if there are too few.
    """

    table: pd.DataFrame
    best: RetrievalSetting
    threshold: float | None
    species_thresholds: dict[str, float]
    calibration: Calibration
    decision: Decision | None
    scores: dict[str, Any]
    queries: pd.DataFrame
    by_setting: SettingQueries
    fusion: FusionModel | None = None
    encounters: EncounterCalibration | None = None


def evaluate(
    views: Mapping[str, np.ndarray],
    *,
    individuals: np.ndarray,
    parts: np.ndarray,
    images: np.ndarray,
    settings: Sequence[RetrievalSetting],
    unknown_label: str,
    groups: np.ndarray | None = None,
    splits: np.ndarray | None = None,
    proxies: Mapping[int, ClassProxies] | None = None,
    viewpoints: np.ndarray | None = None,
    species: np.ndarray | None = None,
    evidence: Evidence | None = None,
    objective: str = "recall@1",
    decide: DecisionRule = BALANCED,
    held_out_as_new: bool = False,
    seed: int = 0,
) -> Evaluation:
    """Score every setting by cross-fitting over five folds of queries.

    Args:
        views: `plain` and, if a setting needs it, `flip`: float16, shape (N, D), one row per photograph.
        individuals: Individual of each row, shape (N,).
        parts: `train` or `val`, shape (N,). The gallery is the named photographs of `train`; the queries are all of
            `val`.
        images: File name of each row, shape (N,).
        settings: The retrieval settings.
        unknown_label: Label of unknown individuals.
        groups: Encounter of each row, "" for none, shape (N,).
        splits: Split of each row, if there are several; queries are searched in the gallery of their split. Shape (N,).
        proxies: Class proxies by split; without them, the weight of the proxy classifier is 0.
        viewpoints: Viewpoint of each row, "" for unknown, shape (N,); None if all are unknown.
        species: Species of each row, likewise.
        evidence: Local evidence by kind and split, queries and gallery in row order, for settings with local features.
        objective: Name of the score that chooses.
        decide: When an animal is decided as new.
        held_out_as_new: Named queries without a gallery image count as unknown individuals.
        seed: Seed of folds and intervals.

    Raises:
        InputError: If the objective is unknown, a view or evidence is missing, or there is no setting.
    """
    if not settings:
        raise InputError("an evaluation needs at least one retrieval setting, but got none. Give RetrievalSetting()")
    settings = settings if proxies else without_classifier(settings)
    held = SearchRuns(
        views,
        settings,
        individuals=individuals,
        parts=parts,
        splits=splits,
        unknown_label=unknown_label,
        held_out_as_new=held_out_as_new,
        proxies=proxies,
        viewpoints=viewpoints,
        species=species,
        evidence=evidence,
    )
    files, groups = np.asarray(images, dtype=str), None if groups is None else np.asarray(groups, dtype=str)
    return _score(held, settings, files, groups, objective=objective, decide=decide, seed=seed)


def _score(
    held: SearchRuns,
    settings: Sequence[RetrievalSetting],
    files: np.ndarray,
    groups: np.ndarray | None,
    *,
    objective: str,
    decide: DecisionRule,
    seed: int,
) -> Evaluation:
    """Return the evaluation of the searches of `held`; `files` and `groups` are of all photographs, shape (N,)."""
    clusters, folds = clusters_and_folds(
        held.individuals, images=files, groups=groups, rows=held.rows, unknown_label=held.unknown_label, seed=seed
    )
    codes = np.unique(clusters, return_inverse=True)[1]  # for intervals: names are slow to sort again and again
    outcomes, fusions = zip(*(_answer(held, setting, folds, codes) for setting in settings), strict=True)
    final, *choices = choose_settings(outcomes, held.queries, groups_for_choosing(folds), objective=objective)
    pooled = pool_cross_fitted(outcomes, choices, folds, held.queries)
    new = ~held.queries.known
    chosen, fusion = outcomes[final.place], fusions[final.place]
    lacks_fusion = any(one.local != "none" and not model for one, model in zip(settings, fusions, strict=True))
    calibration = fit_calibration(chosen.cosines, chosen.ranks, new, held.queries.species, strangers=chosen.strangers)
    decision = decide.at(float(new.mean())) if len(new) and calibration.new is not None else None
    table = setting_table(settings, outcomes, held.queries)
    common: dict[str, Any] = {"decision": decision, "seed": seed}
    options: dict[str, Any] = {"new_by_strangers": calibration.has_strangers, "lacks_fusion": lacks_fusion}
    scores = scores_with_intervals(pooled, held.queries, codes, **options, **common)
    split = {"folds": folds, "clusters": codes, "groups": groups, **common}
    best = settings[final.place] if fusion else replace(settings[final.place], local="none")
    encounters = evaluate_encounters(held, best, single=calibration, **split)
    return Evaluation(
        table=table,
        best=best,
        threshold=final.threshold,
        species_thresholds=dict(final.of_species),
        calibration=calibration,
        decision=decision,
        scores=scores | encounters.scores,
        queries=query_table(held, pooled, settings, files, clusters=clusters, folds=folds),
        by_setting=setting_queries(held, settings, outcomes, table["threshold"], files),
        fusion=fusion,
        encounters=encounters.calibration,
    )


def _answer(
    held: SearchRuns, setting: RetrievalSetting, folds: np.ndarray, clusters: np.ndarray
) -> tuple[Outcome, FusionModel | None]:
    """Return what a setting gives each query, and its fusion; without a fusion the embedding alone ranks."""
    outcome = held.outcome(setting)
    if setting.local == "none":
        return outcome, None
    outcome, model = fuse_outcome(outcome, held.candidates(setting), held.queries, folds, clusters=clusters)
    shortlist = size_of_shortlists(held.runs[0].evidence[setting.local])
    return outcome, model and replace(model, shortlist=shortlist)


def score_setting(
    views: Mapping[str, np.ndarray],
    *,
    setting: RetrievalSetting,
    individuals: np.ndarray,
    parts: np.ndarray,
    unknown_label: str,
    held_out_as_new: bool = False,
    proxies: ClassProxies | None = None,
    viewpoints: np.ndarray | None = None,
    species: np.ndarray | None = None,
) -> dict[str, float | None]:
    """Return every score that a sweep may maximize, of one setting by the embedding alone, not cross-fitted.

    Args:
        views: As in `evaluate`.
        setting: The retrieval setting.
        individuals: As in `evaluate`.
        parts: As in `evaluate`.
        unknown_label: Label of unknown individuals.
        held_out_as_new: As in `evaluate`.
        proxies: Class proxies of the only split.
        viewpoints: As in `evaluate`.
        species: As in `evaluate`.

    Returns:
        Score by name; None for a score that cannot be computed.
    """
    (setting,) = without_local([setting] if proxies else without_classifier([setting]))
    held = SearchRuns(
        views,
        [setting],
        individuals=individuals,
        parts=parts,
        splits=None,
        unknown_label=unknown_label,
        held_out_as_new=held_out_as_new,
        proxies={0: proxies} if proxies else None,
        viewpoints=viewpoints,
        species=species,
    )
    scores = plain_scores(held.outcome(setting), held.queries)
    del scores["threshold"]
    return scores
