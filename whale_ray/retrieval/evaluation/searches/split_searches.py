"""Searches in the gallery of one split: one per distinct transform and search mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from whale_ray.errors import InputError
from whale_ray.retrieval.evaluation.metrics import find_ranks
from whale_ray.retrieval.evaluation.outcomes import Outcome, Queries, read_outcome
from whale_ray.retrieval.evaluation.score_names import CUTOFFS
from whale_ray.retrieval.fusion.candidates import Candidates, gather_candidates
from whale_ray.retrieval.fusion.evaluation_evidence import EvidenceSource, evidence_of
from whale_ray.retrieval.fusion.stranger_cohort import Cohort, stranger_cosines
from whale_ray.retrieval.search.gallery_index import normalize_rows
from whale_ray.retrieval.search.neighbor_search import Neighbors
from whale_ray.retrieval.search.pools import PooledSearcher, QueryGroup
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting, SearchMode, VectorTransform
from whale_ray.retrieval.search.voting import VOTES, Ranking, join_rankings, join_rows, rank_individuals
from whale_ray.retrieval.transformed_vectors import TransformedVectors

SearchKey = tuple[VectorTransform, SearchMode]


def search_key(setting: RetrievalSetting) -> SearchKey:
    """Return what settings that share a search have in common."""
    return setting.transform, setting.search_mode


def _vote(found: Neighbors, setting: RetrievalSetting) -> Ranking:
    return rank_individuals(found, vote=setting.vote, neighbours=setting.neighbours, temperature=setting.temperature)


def _joined(groups: Sequence[QueryGroup], rankings: Sequence[Ranking]) -> Ranking:
    found = map(lambda group, one: group.pool.in_gallery(one), groups, rankings)
    return join_rankings(list(found), [group.queries for group in groups])


class SearchRun:
    """One gallery and the queries that are searched in it.

    Args:
        vectors: Transformed vectors of the photographs.
        rows: Positions of these photographs among all, shape (n,).
        depths: Search depth by transform and search mode.
        viewpoints: Viewpoint of each photograph, "" for unknown, shape (n,).
        species: Species of each photograph, likewise.
        held_out_as_new: Named queries without a gallery image count as unknown.
        evidence: Local evidence by kind.
        has_cohort: The photographs of unknown animals are used as a cohort.
    """

    def __init__(
        self,
        vectors: TransformedVectors,
        rows: np.ndarray,
        depths: Mapping[SearchKey, int],
        *,
        viewpoints: np.ndarray,
        species: np.ndarray,
        held_out_as_new: bool,
        evidence: Mapping[str, EvidenceSource],
        has_cohort: bool,
    ) -> None:
        self.vectors, self.rows, self.depths, self.evidence = vectors, rows, depths, evidence
        self._has_cohort = has_cohort
        named = vectors.individuals != vectors.unknown_label
        self.asking = np.flatnonzero(vectors.asking)
        self.gallery = np.flatnonzero(vectors.training & named)
        self.viewpoints, self.species, self.held_out_as_new = viewpoints, species, held_out_as_new
        self._searchers: dict[VectorTransform, tuple[np.ndarray, PooledSearcher]] = {}
        self._grouped: dict[tuple[VectorTransform, str], list[QueryGroup]] = {}
        self._found: dict[tuple[SearchKey, bool], list[Neighbors]] = {}
        self._image_ranks: dict[SearchKey, np.ndarray] = {}
        self._strangers: dict[VectorTransform, np.ndarray] = {}

    @cached_property
    def queries(self) -> Queries:
        """Return the right answers in this gallery; its size is that of the query's species."""
        transform = next(iter(self.depths))[0]
        labels, index = self.vectors.individuals[self.asking], self.searcher(transform)[1].index
        truth = index.codes_of(labels)
        new = (labels == self.vectors.unknown_label) | (self.held_out_as_new & (truth < 0))
        images = np.append(index.images_per_individual, 0)[truth]
        sizes, names = (np.zeros(len(truth), dtype=np.int64) for _ in range(2))
        for group in self._groups(transform, "any"):
            sizes[group.queries], names[group.queries] = len(group.pool.rows), len(group.pool.codes)
        return Queries(truth, new, images, sizes, names, labels=labels, species=self.species[self.asking])

    def searcher(self, view: VectorTransform) -> tuple[np.ndarray, PooledSearcher]:
        """Return the transformed queries, unit vectors in float32, and the gallery."""
        if view not in self._searchers:
            vectors = self.vectors.seen(view)
            searcher = PooledSearcher(
                vectors[self.gallery],
                self.vectors.individuals[self.gallery],
                viewpoints=self.viewpoints[self.gallery],
                species=self.species[self.gallery],
                proxies=self.vectors.transform_proxies(view),
            )
            self._searchers[view] = (normalize_rows(vectors[self.asking]), searcher)
        return self._searchers[view]

    def cohort(self, transform: VectorTransform) -> Cohort | None:
        """Return the cohort of unknown animals after a transform; None without one."""
        return self.vectors.cohort(transform) if self._has_cohort else None

    def outcome(self, setting: RetrievalSetting) -> Outcome:
        """Return what a setting gives each query of this gallery."""
        (queries, _), way = self.searcher(setting.transform), search_key(setting)
        (groups, rankings), nearest = self._rankings(setting), []
        for group, one in zip(groups, rankings, strict=True):
            asked, searcher = queries[group.queries], group.pool.searcher
            nearest.append(group.pool.gallery_rows(searcher.nearest_images(asked, one, way[1], first=1, ready=True)[1]))
        first = join_rows(nearest, [group.queries for group in groups], -1)
        ranking, ranks, rows = _joined(groups, rankings), self._ranks_of_images(way), self.rows[self.gallery]
        strangers = self._strangers_of(setting.transform)
        return read_outcome(ranking, ranks, self.queries, nearest=first, rows=rows, strangers=strangers)

    def rank(self, setting: RetrievalSetting) -> Ranking:
        """Return the ranking of each query of this gallery, by the embedding alone."""
        return _joined(*self._rankings(setting))

    def candidates(self, setting: RetrievalSetting) -> Candidates:
        """Return the candidates of each query, as `SearchRuns.candidates` does."""
        if setting.local not in self.evidence:
            raise InputError(f"retrieval.local {setting.local} needs evidence of its kind. Gather it, or take none")
        (queries, _), (groups, rankings) = self.searcher(setting.transform), self._rankings(setting)
        known = evidence_of(self.evidence[setting.local], queries, groups)
        mode, cohort = setting.search_mode, self.cohort(setting.transform)
        found = gather_candidates(queries, groups, rankings, mode, known, cohort)
        return replace(found, images=np.append(self.rows[self.gallery], -1)[found.images])

    def _strangers_of(self, transform: VectorTransform) -> np.ndarray:
        """Return how near strangers come to each query, shape (Q,); NaN without a cohort."""
        if transform not in self._strangers:
            (queries, _), cohort = self.searcher(transform), self.cohort(transform)
            self._strangers[transform] = stranger_cosines(cohort, queries)
        return self._strangers[transform]

    def _rankings(self, setting: RetrievalSetting) -> tuple[list[QueryGroup], list[Ranking]]:
        """Return the groups of queries and the ranking of each in its pool."""
        found = self._neighbors(search_key(setting), VOTES[setting.vote].by_centroid)
        return self._groups(setting.transform, setting.side), [_vote(one, setting) for one in found]

    def _groups(self, transform: VectorTransform, side: str) -> list[QueryGroup]:
        if (transform, side) not in self._grouped:
            _, searcher = self.searcher(transform)
            traits = {"viewpoints": self.viewpoints[self.asking], "species": self.species[self.asking]}
            self._grouped[transform, side] = searcher.groups(side, len(self.asking), **traits)
        return self._grouped[transform, side]

    def _neighbors(self, way: SearchKey, by_centroid: bool) -> list[Neighbors]:
        if (way, by_centroid) not in self._found:
            (transform, mode), found = way, []
            queries, _ = self.searcher(transform)
            for group in self._groups(transform, mode.side):
                one, asked = group.pool.searcher, queries[group.queries]
                if by_centroid:
                    found.append(one.find_by_centroid(asked, mode, penalized=group.penalized, ready=True))
                    continue
                found.append(one.find(asked, mode, neighbours=self.depths[way], penalized=group.penalized, ready=True))
            self._found[way, by_centroid] = found
        return self._found[way, by_centroid]

    def _ranks_of_images(self, way: SearchKey) -> np.ndarray:
        """Return the rank of each query's first right image; independent of the vote."""
        if way not in self._image_ranks:
            groups = self._groups(way[0], way[1].side)
            ranks = np.zeros(len(self.asking), dtype=np.int64)
            for group, found in zip(groups, self._neighbors(way, by_centroid=False), strict=True):
                nearest = np.take_along_axis(found.individuals, found.columns[:, : CUTOFFS[-1]], axis=1)
                ranks[group.queries] = find_ranks(group.pool.gallery_codes(nearest), self.queries.truth[group.queries])
            self._image_ranks[way] = ranks
        return self._image_ranks[way]
