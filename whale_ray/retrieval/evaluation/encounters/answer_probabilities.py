"""Probabilities of answers to single photographs and to encounters, by one decision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from whale_ray.retrieval.evaluation.calibration import Calibration
from whale_ray.retrieval.evaluation.decisions import Decision
from whale_ray.retrieval.evaluation.encounters.encounter_calibration import EncounterCalibration


def answer_probabilities(
    cosines: np.ndarray,
    *,
    strangers: np.ndarray,
    species: Sequence[str],
    photographs: Sequence[int] | None,
    single: Calibration,
    encounters: EncounterCalibration | None,
    decision: Decision | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities of each candidate, shape (Q, R), and of a new animal, shape (Q,); NaN if unknown.

    Args:
        cosines: Cosines of the ranked candidates, shape (Q, R).
        strangers: From `stranger_cosines`, shape (Q,).
        species: Species of each query, "" for unknown.
        photographs: Number of photographs behind each query; None for one each.
        single: Calibration of single photographs.
        encounters: Calibration of several; without one, that of single photographs is used.
        decision: Shifts the probabilities to the assumed share of new animals; None leaves them.
    """
    match, new = single.of_answers(cosines, species, strangers=strangers)
    counts = np.ones(len(cosines), dtype=np.int64) if photographs is None else np.asarray(photographs)
    if encounters is not None:
        for count in np.unique(counts[counts > 1]).tolist():
            here, calibration = counts == count, encounters.at(count)
            match[here], new[here] = calibration.of_answers(cosines[here], strangers=strangers[here])
    if decision is None:
        return match, new
    return decision.of_match(match, new), decision.of_new(new)
