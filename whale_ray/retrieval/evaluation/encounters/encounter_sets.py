"""Encounters among the queries: those of the table, and drawn groups of one individual if there are too few."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

FEWEST_ENCOUNTERS = 40
"""Encounters of named individuals below which groups are drawn as well."""
MOST_PHOTOGRAPHS = 8
"""Photographs of an encounter that are used."""
_DRAWN = (2, 5)  # photographs of a drawn group, the end excluded


@dataclass(frozen=True)
class EncounterSet:
    """Encounters with at least two query photographs each.

    Attributes:
        rows: Positions of the photographs of each encounter.
        drawn: The encounter is a drawn group of photographs of one individual, bool, shape (E,).
    """

    rows: tuple[np.ndarray, ...]
    drawn: np.ndarray


NO_ENCOUNTERS = EncounterSet((), np.zeros(0, dtype=bool))


def find_encounters(
    individuals: np.ndarray,
    *,
    asking: np.ndarray,
    splits: np.ndarray,
    groups: np.ndarray | None,
    unknown_label: str,
    seed: int = 0,
) -> EncounterSet:
    """Return the encounters among the queries.

    Query photographs of one individual, split and group are an encounter. With fewer than `FEWEST_ENCOUNTERS` of named
    individuals, groups of 2 to 4 of the remaining query photographs of each named individual are drawn as well.
    Photographs of the unknown label without a group may show different animals and are never joined.

    Args:
        individuals: Individual of each photograph, str, shape (N,).
        asking: The photograph is a query, bool, shape (N,).
        splits: Split of each photograph, shape (N,).
        groups: Group of each photograph, "" for none, shape (N,); None if there are no groups.
        unknown_label: Label of unknown individuals.
        seed: Seed of the drawn groups.
    """
    table = pd.DataFrame({"split": splits, "individual": individuals, "group": "" if groups is None else groups})
    asked = table[asking]
    together = asked[asked["group"] != ""].groupby(["split", "individual", "group"]).indices
    asked_rows, grouped = np.flatnonzero(asking), np.flatnonzero(asking)[(asked["group"] != "").to_numpy()]
    named = [grouped[places] for places in together.values() if len(places) > 1]
    drawn: list[np.ndarray] = []
    if sum(str(individuals[rows[0]]) != unknown_label for rows in named) < FEWEST_ENCOUNTERS:
        free = np.setdiff1d(asked_rows, np.concatenate([*named, np.zeros(0, dtype=np.int64)]))
        free = free[individuals[free] != unknown_label]
        drawn = list(_drawn_groups(table.iloc[free], free, np.random.default_rng(seed)))
    rows = tuple(np.sort(one)[:MOST_PHOTOGRAPHS] for one in [*named, *drawn])
    return EncounterSet(rows, np.arange(len(rows)) >= len(named))


def _drawn_groups(table: pd.DataFrame, rows: np.ndarray, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield groups of 2 to 4 rows of one individual and split; a single left-over photograph is in none."""
    for places in table.groupby(["split", "individual"]).indices.values():
        left = random.permutation(rows[places])
        while len(left) > 1:
            size = int(random.integers(*_DRAWN))
            yield left[:size]
            left = left[size:]
