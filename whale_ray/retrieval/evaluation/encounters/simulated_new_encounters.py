"""Known encounters that are searched without their individual, in place of encounters of new animals."""

from __future__ import annotations

import numpy as np

from whale_ray.retrieval.evaluation.encounters.encounter_sets import EncounterSet

FEWEST_NEW = 20
"""Encounters of new animals below which known ones play new animals."""
MOST_PHOTOGRAPHS_HELD_OUT = 300
"""Photographs whose local evidence without their individual is gathered, about at most."""


def encounters_to_hold_out(encounters: EncounterSet, known: np.ndarray) -> EncounterSet:
    """Return the known encounters that play new animals; none if there are enough of new animals.

    Args:
        encounters: All encounters.
        known: The individual of a photograph is in its gallery, bool, shape (N,).
    """
    is_known = np.array([bool(known[rows[0]]) for rows in encounters.rows], dtype=bool)
    return _part(encounters, is_known & bool((~is_known).sum() < FEWEST_NEW))


def encounters_with_evidence(encounters: EncounterSet) -> EncounterSet:
    """Return evenly spaced encounters with about `MOST_PHOTOGRAPHS_HELD_OUT` photographs at most."""
    photographs = sum(map(len, encounters.rows))
    kept = int(len(encounters.rows) * min(1.0, MOST_PHOTOGRAPHS_HELD_OUT / max(photographs, 1)))
    chosen = np.zeros(len(encounters.rows), dtype=bool)
    chosen[np.linspace(0, len(chosen), kept, endpoint=False).astype(np.int64)] = True
    return _part(encounters, chosen)


def _part(encounters: EncounterSet, kept: np.ndarray) -> EncounterSet:
    rows = tuple(rows for rows, is_kept in zip(encounters.rows, kept, strict=True) if is_kept)
    return EncounterSet(rows, encounters.drawn[kept])
