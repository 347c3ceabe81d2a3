"""Rankings of encounters by their mean embedding, and of encounters that play animals that are not in the gallery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from whale_ray.retrieval.evaluation.calibration import CANDIDATES
from whale_ray.retrieval.evaluation.encounters.encounter_sets import EncounterSet
from whale_ray.retrieval.evaluation.metrics import find_ranks
from whale_ray.retrieval.evaluation.search_runs import SearchRuns
from whale_ray.retrieval.search.gallery_index import normalize_rows
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting


@dataclass(frozen=True)
class EncounterRankings:
    """Answers to Q encounters.

    Attributes:
        cosines: Cosines of the first candidates, NaN if there are no more, shape (Q, 5).
        ranks: Rank of the right candidate, 0 if it is none of the first, shape (Q,).
        known: The individual is in the gallery, bool, shape (Q,).
        first: Position of the first photograph of each encounter, shape (Q,).
        photographs: Number of photographs, shape (Q,).
    """

    cosines: np.ndarray
    ranks: np.ndarray
    known: np.ndarray
    first: np.ndarray
    photographs: np.ndarray


def rank_encounters(
    held: SearchRuns, setting: RetrievalSetting, encounters: EncounterSet, *, most: int | None = None, playing: int = 0
) -> EncounterRankings:
    """Return the rankings of the normalized mean embedding of each encounter, as the service searches it.

    Args:
        held: The galleries and queries.
        setting: The retrieval setting.
        encounters: The encounters; each has queries of one split.
        most: Number of photographs used of each encounter; None for all.
        playing: Number of known encounters that are ranked once more without their individual, to play a new animal.
    """
    parts, width = [], CANDIDATES + 1
    for run in held.runs:
        place = dict(zip(run.rows[run.asking].tolist(), range(len(run.asking)), strict=True))
        asked = [rows[:most] for rows in encounters.rows if int(rows[0]) in place]
        if not asked:
            continue
        unit, searcher = run.searcher(setting.transform)
        means = normalize_rows(np.stack([unit[[place[int(row)] for row in rows]].sum(axis=0) for rows in asked]))
        first = np.array([rows[0] for rows in asked])
        traits = {name: values[first] for name, values in held.traits.items()}
        ranking = searcher.rank(
            means, setting, first=1, viewpoints=traits["viewpoint"], species=traits["species"], ready=True
        ).ranking
        truth = searcher.index.codes_of(held.individuals[first])
        shown = ranking.cosines[:, :width]
        cosines = np.pad(shown, ((0, 0), (0, width - shown.shape[1])), constant_values=np.nan)
        ranks = find_ranks(ranking.individuals[:, :width], truth)
        parts.append((cosines, ranks, truth >= 0, first, np.array([len(rows) for rows in asked])))
    found = EncounterRankings(*(np.concatenate(each) for each in zip(*parts, strict=True)))
    return _with_players(found, playing)


def _with_players(found: EncounterRankings, playing: int) -> EncounterRankings:
    """Append evenly spaced known encounters without their own individual, and keep the first candidates."""
    known = np.flatnonzero(found.known)
    chosen = known[np.linspace(0, len(known), playing, endpoint=False).astype(np.int64)] if playing else known[:0]
    kept = [np.delete(found.cosines[row], max(int(found.ranks[row]) - 1, -1)) for row in chosen]
    plain = EncounterRankings(
        found.cosines[:, :CANDIDATES],
        np.where(found.ranks > CANDIDATES, 0, found.ranks),
        found.known,
        found.first,
        found.photographs,
    )
    if not kept:
        return plain
    none = np.zeros(len(chosen), dtype=np.int64)
    players = EncounterRankings(np.stack(kept), none, none.astype(bool), found.first[chosen], found.photographs[chosen])
    return _joined([plain, players])


def _joined(parts: Sequence[EncounterRankings]) -> EncounterRankings:
    names = [field.name for field in fields(EncounterRankings)]
    return EncounterRankings(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
