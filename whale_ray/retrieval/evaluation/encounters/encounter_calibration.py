"""Calibration of encounters: probabilities and threshold for several photographs of one animal.

A mean embedding is nearer to every individual than a single photograph, so that a calibration of single photographs
calls too few encounters new. The logistic regressions of `calibration` are fitted on encounters, with the logarithm of
the number of photographs as another feature. Strangers come nearer to a mean, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from whale_ray.retrieval.evaluation.calibration import (
    Calibration,
    LogisticModel,
    fit_in_order,
    read_calibration,
)
from whale_ray.retrieval.evaluation.calibration_features import candidate_features, with_strangers
from whale_ray.retrieval.evaluation.thresholds.threshold_steps import best_thresholds, threshold_steps
from whale_ray.retrieval.fusion.fusion_model import FusionModel, read_fusion_model
from whale_ray.retrieval.logistic_regression import fit_logistic


@dataclass(frozen=True)
class EncounterCalibration:
    """Probabilities and threshold of encounters.

    Attributes:
        base: The calibration, extrapolated to one photograph.
        match_slope: Change of the logit of a match per unit of the logarithm of the number of photographs.
        new_slope: The same of the logit of a new animal.
        threshold: Score of the first candidate below which an encounter is called new, best for map@5; None if no
            encounter is new.
        fusion: Fusion of embedding and local evidence, fitted on encounters, whose scores are calibrated; None if
            encounters are ranked by the embedding alone.
    """

    base: Calibration
    match_slope: float
    new_slope: float
    threshold: float | None
    fusion: FusionModel | None = None

    def at(self, photographs: int) -> Calibration:
        """Return the calibration of encounters with so many photographs."""
        steps = float(np.log(photographs))
        match, new = (
            None if model is None else replace(model, intercept=model.intercept + slope * steps)
            for model, slope in ((self.base.match, self.match_slope), (self.base.new, self.new_slope))
        )
        return Calibration(match, new)

    def written(self) -> dict[str, Any]:
        """As JSON; `read_encounter_calibration` reads it."""
        slopes = {"match_slope": self.match_slope, "new_slope": self.new_slope}
        fusion = {"fusion": self.fusion.written()} if self.fusion else {}
        return {**self.base.written(), **slopes, "threshold": self.threshold, **fusion}


def read_encounter_calibration(written: Mapping[str, Any] | None) -> EncounterCalibration | None:
    """Return the calibration that `EncounterCalibration.written` wrote; None for None, as of older bundles."""
    if written is None:
        return None
    threshold = written["threshold"]
    return EncounterCalibration(
        read_calibration(written),
        float(written["match_slope"]),
        float(written["new_slope"]),
        None if threshold is None else float(threshold),
        read_fusion_model(written["fusion"]) if "fusion" in written else None,
    )


def fit_encounter_calibration(
    cosines: np.ndarray,
    ranks: np.ndarray,
    new: np.ndarray,
    *,
    photographs: np.ndarray,
    weights: np.ndarray,
    strangers: np.ndarray | None = None,
) -> EncounterCalibration | None:
    """Fit the calibration on Q answered encounters; None if there are too few of either kind.

    Args:
        cosines: Cosines or fused scores of the ranked candidates, NaN if there are no more, shape (Q, R).
        ranks: Rank of the right candidate, 0 for none, shape (Q,).
        new: The animal is in no gallery, bool, shape (Q,).
        photographs: Number of photographs of each encounter, shape (Q,).
        weights: Weight of each encounter, greater than 0, shape (Q,).
        strangers: From `stranger_cosines` of the mean embeddings, shape (Q,); None, or NaN of any, leaves them out.
    """
    features, present = candidate_features(cosines)
    if not features.shape[1]:
        return None
    places = np.broadcast_to(np.arange(1, features.shape[1] + 1), features.shape[:2])
    logs = np.broadcast_to(np.log(photographs)[:, None, None], (*features.shape[:2], 1))
    features = np.concatenate([features, logs], axis=2)
    each = np.broadcast_to(weights[:, None], features.shape[:2])
    match = fit_in_order(features[present], (ranks[:, None] == places)[present], each[present])
    answered = present[:, 0]
    firsts = with_strangers(features[:, 0], strangers)
    is_new = fit_logistic(firsts[answered], new[answered], weights[answered])
    if match is None or is_new is None:
        return None
    thresholds, _ = best_thresholds(threshold_steps(cosines, ranks, new), weights[None])
    base = Calibration(LogisticModel(*map(float, match[:4])), LogisticModel(*map(float, [*is_new[:4], *is_new[5:]])))
    return EncounterCalibration(base, float(match[4]), float(is_new[4]), float(thresholds[0]))


def need_strangers(single: Calibration, encounters: EncounterCalibration | None) -> bool:
    """Return whether one of the two probabilities of a new animal depends on how near strangers come.

    Args:
        single: Calibration of single photographs.
        encounters: Calibration of encounters; None if there is none.
    """
    return single.has_strangers or (encounters is not None and encounters.base.has_strangers)
