"""Rankings of encounters by their mean embedding, and of encounters that play animals that are not in the gallery."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

from whale_ray.retrieval.evaluation.calibration_features import CANDIDATES
from whale_ray.retrieval.evaluation.encounters.encounter_sets import NO_ENCOUNTERS, EncounterSet
from whale_ray.retrieval.evaluation.metrics import find_ranks
from whale_ray.retrieval.evaluation.searches.search_runs import SearchRuns
from whale_ray.retrieval.evaluation.searches.split_searches import SearchRun
from whale_ray.retrieval.fusion.stranger_cohort import stranger_cosines
from whale_ray.retrieval.search.gallery_index import normalize_rows
from whale_ray.retrieval.search.pools import PooledSearcher, QueryGroup
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting, VectorTransform
from whale_ray.retrieval.search.voting import join_rankings

_SEARCHED = 4 * CANDIDATES  # individuals: with fewer, some searches are repeated for more candidates


@dataclass(frozen=True)
class EncounterRankings:
    """Answers to Q encounters.

    Attributes:
        cosines: Cosines of the first candidates, NaN if there are no more, shape (Q, 5).
        ranks: Rank of the right candidate, 0 if it is none of the first, shape (Q,).
        known: The individual is in the gallery, bool, shape (Q,).
        first: Position of the first photograph of each encounter, shape (Q,).
        photographs: Number of photographs, shape (Q,).
        strangers: From `stranger_cosines` of the mean embedding, shape (Q,).
    """

    cosines: np.ndarray
    ranks: np.ndarray
    known: np.ndarray
    first: np.ndarray
    photographs: np.ndarray
    strangers: np.ndarray


@dataclass(frozen=True)
class AskedEncounters:
    """Encounters of one split and the gallery that they are searched in.

    Attributes:
        run: The gallery and its queries.
        searcher: Searcher of the gallery.
        groups: The encounters by pool.
        vectors: Normalized mean embedding of each encounter, as the service searches it, float32, shape (E, D).
        photographs: Positions of the photographs of each encounter among the queries of the run.
        first: Position of the first photograph of each encounter among all photographs, shape (E,).
        truth: Code of the individual in the gallery; -1 if it is not there. Shape (E,).
    """

    run: SearchRun
    searcher: PooledSearcher
    groups: Sequence[QueryGroup]
    vectors: np.ndarray
    photographs: tuple[np.ndarray, ...]
    first: np.ndarray
    truth: np.ndarray

    def strangers(self, transform: VectorTransform) -> np.ndarray:
        """Return how near strangers come to each encounter, shape (E,), after the transform; NaN without a cohort."""
        return stranger_cosines(self.run.cohort(transform), self.vectors)

    @property
    def counts(self) -> np.ndarray:
        """Number of photographs of each encounter, shape (E,)."""
        return np.array([len(rows) for rows in self.photographs])

    @property
    def images(self) -> np.ndarray:
        """Number of gallery photographs of the individual, 0 if it is not there, shape (E,)."""
        return np.asarray(np.append(self.searcher.index.images_per_individual, 0)[self.truth])


def ask_encounters(
    held: SearchRuns, setting: RetrievalSetting, encounters: EncounterSet, *, most: int | None = None
) -> Iterator[AskedEncounters]:
    """Yield the encounters of each split that has some.

    Args:
        held: The galleries and queries.
        setting: The retrieval setting.
        encounters: The encounters; each has queries of one split.
        most: Number of photographs used of each encounter; None for all.
    """
    for run in held.runs:
        place = dict(zip(run.rows[run.asking].tolist(), range(len(run.asking)), strict=True))
        asked = [rows[:most] for rows in encounters.rows if int(rows[0]) in place]
        if not asked:
            continue
        unit, searcher = run.searcher(setting.transform)
        photographs = tuple(np.array([place[int(row)] for row in rows]) for rows in asked)
        first = np.array([rows[0] for rows in asked])
        traits = {name: values[first] for name, values in held.traits.items()}
        yield AskedEncounters(
            run,
            searcher,
            searcher.groups(setting.side, len(asked), viewpoints=traits["viewpoint"], species=traits["species"]),
            normalize_rows(np.stack([unit[rows].sum(axis=0) for rows in photographs])),
            photographs,
            first,
            searcher.index.codes_of(held.individuals[first]),
        )


def rank_encounters(
    held: SearchRuns,
    setting: RetrievalSetting,
    encounters: EncounterSet,
    *,
    held_out: EncounterSet = NO_ENCOUNTERS,
    most: int | None = None,
) -> EncounterRankings:
    """Return the rankings of the normalized mean embedding of each encounter, without local evidence.

    Args:
        held: The galleries and queries.
        setting: The retrieval setting.
        encounters: The encounters; each has queries of one split.
        held_out: Those of them that are ranked once more without their individual, to play a new animal.
        most: Number of photographs used of each encounter; None for all.
    """
    parts, width = [], CANDIDATES + 1
    for asked in ask_encounters(held, setting, encounters, most=most):
        shown, individuals = _first_candidates(asked, setting, width, is_single=most == 1)
        cosines = np.pad(shown, ((0, 0), (0, width - shown.shape[1])), constant_values=np.nan)
        ranks = find_ranks(individuals, asked.truth)
        strangers = asked.strangers(setting.transform)
        parts.append((cosines, ranks, asked.truth >= 0, asked.first, asked.counts, strangers))
    found = EncounterRankings(*(np.concatenate(each) for each in zip(*parts, strict=True)))
    return _with_players(found, held_out)


def _first_candidates(
    asked: AskedEncounters, setting: RetrievalSetting, width: int, *, is_single: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines and codes of the first candidates, shape (E, at most `width`)."""
    if is_single:
        ranking, rows = asked.run.rank(setting), np.concatenate(asked.photographs)
        return ranking.cosines[rows, :width], ranking.individuals[rows, :width]
    rankings = [
        group.pool.in_gallery(
            group.pool.searcher.rank(
                asked.vectors[group.queries], setting, individuals=_SEARCHED, penalized=group.penalized, ready=True
            )
        )
        for group in asked.groups
    ]
    ranking = join_rankings(rankings, [group.queries for group in asked.groups])
    return ranking.cosines[:, :width], ranking.individuals[:, :width]


def _with_players(found: EncounterRankings, held_out: EncounterSet) -> EncounterRankings:
    """Append some encounters without their own individual, and keep the first candidates."""
    chosen = np.flatnonzero(np.isin(found.first, [rows[0] for rows in held_out.rows]))
    kept = [np.delete(found.cosines[row], max(int(found.ranks[row]) - 1, -1)) for row in chosen]
    plain = EncounterRankings(
        found.cosines[:, :CANDIDATES],
        np.where(found.ranks > CANDIDATES, 0, found.ranks),
        found.known,
        found.first,
        found.photographs,
        found.strangers,
    )
    if not kept:
        return plain
    none = np.zeros(len(chosen), dtype=np.int64)
    same = (each[chosen] for each in (found.first, found.photographs, found.strangers))
    return _joined([plain, EncounterRankings(np.stack(kept), none, none.astype(bool), *same)])


def _joined(parts: Sequence[EncounterRankings]) -> EncounterRankings:
    names = [field.name for field in fields(EncounterRankings)]
    return EncounterRankings(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
