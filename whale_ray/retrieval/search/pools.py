"""Pools of candidates: the part of a gallery that a query is searched in, by its viewpoint and species.

Images of another species are never candidates. `side: same` also leaves out images of another viewpoint, and
`side: weighted` lowers their scores. An image without a viewpoint or species is a candidate of every query. A query
without a species is searched among all species; one without a viewpoint, or with a viewpoint that no image of its
species has, among all viewpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from whale_ray.retrieval.search.gallery_index import normalize_rows
from whale_ray.retrieval.search.proxy_classifier import ClassProxies
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting, SearchMode
from whale_ray.retrieval.search.searcher import GallerySearcher
from whale_ray.retrieval.search.voting import Ranking, join_rankings, join_rows


@dataclass(frozen=True)
class Pool:
    """The candidates of a query.

    Attributes:
        searcher: Searcher among them.
        rows: Gallery row of each row of `searcher`, shape (n,).
        codes: Gallery code of each individual of `searcher`, shape (c,).
        viewpoint: The only viewpoint of the images that have one; "" for any.
        species: The only species of the images that have one; "" for any.
    """

    searcher: GallerySearcher
    rows: np.ndarray
    codes: np.ndarray
    viewpoint: str
    species: str

    @cached_property
    def _keeps_numbers(self) -> bool:
        return all(np.array_equal(each, np.arange(len(each))) for each in (self.codes, self.rows))

    def in_gallery(self, ranking: Ranking) -> Ranking:
        """Return a ranking by `searcher` with the codes and rows of the whole gallery."""
        return Ranking(self.gallery_codes(ranking.individuals), ranking.cosines, self.gallery_rows(ranking.images))

    def gallery_codes(self, codes: np.ndarray) -> np.ndarray:
        """Return the gallery code of individuals of `searcher`; -1 stays -1."""
        return codes if self._keeps_numbers else np.asarray(np.append(self.codes, -1)[codes])

    def gallery_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return the gallery row of rows of `searcher`; -1 stays -1."""
        return rows if self._keeps_numbers else np.asarray(np.append(self.rows, -1)[rows])


@dataclass(frozen=True)
class QueryGroup:
    """Queries that are searched in one pool.

    Attributes:
        queries: Positions of the queries, shape (q,).
        pool: Their candidates.
        penalized: Rows of the pool that show another viewpoint, bool, shape (n,); None if no score is lowered.
    """

    queries: np.ndarray
    pool: Pool
    penalized: np.ndarray | None


@dataclass(frozen=True)
class PooledRanking:
    """Answers to Q queries.

    Attributes:
        ranking: Ranked individuals.
        cosines: Largest cosine to each of the first individuals, shape (Q, at most `first`).
        images: Gallery row of that cosine, shape (Q, at most `first`).
        pools: Pool of each query.
    """

    ranking: Ranking
    cosines: np.ndarray
    images: np.ndarray
    pools: tuple[Pool, ...]


Refine = Callable[[np.ndarray, QueryGroup, Ranking], Ranking]
"""Takes the vectors of a group of queries and their ranking; returns another ranking, with codes of their pool."""


class PooledSearcher:
    """A gallery whose images may have viewpoints and species. Without them there is one pool, the gallery.

    Args:
        vectors: Shape (N, D).
        labels: N names.
        viewpoints: Viewpoint of each image, "" for unknown, shape (N,); None if all are unknown.
        species: Species of each image, likewise.
        proxies: Class proxies; None without a proxy classifier.
        ready: The vectors come from `normalize_rows`.

    Attributes:
        index: The whole gallery; its codes and rows are those of every answer.
        viewpoints: The viewpoints of the images, sorted.
        species: The species of the images, sorted.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        labels: np.ndarray,
        *,
        viewpoints: Sequence[str] | np.ndarray | None = None,
        species: Sequence[str] | np.ndarray | None = None,
        proxies: ClassProxies | None = None,
        ready: bool = False,
    ) -> None:
        searcher = GallerySearcher(vectors, labels, proxies=proxies, ready=ready)
        self.index, self._proxies = searcher.index, proxies
        self._viewpoints, self._species = (_texts(values, len(self.index)) for values in (viewpoints, species))
        self.viewpoints, self.species = _distinct(self._viewpoints), _distinct(self._species)
        whole = Pool(searcher, np.arange(len(self.index)), np.arange(len(self.index.names)), "", "")
        self._pools: dict[tuple[str, str], Pool] = {("", ""): whole}

    def prepare(self, mode: SearchMode) -> None:
        """Do now what the first search of each pool would do once; pools of a plain mode only copy their vectors."""
        viewpoints = ["", *self.viewpoints] if mode.side == "same" else [""]
        for species in [] if mode.plain else ["", *self.species]:
            for viewpoint in viewpoints:
                self._pool(viewpoint, species, mode.side).searcher.prepare(mode)

    def use_lists(self, mode: SearchMode) -> None:
        """Make inverted lists of the whole gallery, as `GallerySearcher` does; other pools search exactly."""
        self._pools["", ""].searcher.use_lists(mode)

    def groups(
        self,
        side: str,
        count: int,
        *,
        viewpoints: Sequence[str] | np.ndarray | None = None,
        species: Sequence[str] | np.ndarray | None = None,
    ) -> list[QueryGroup]:
        """Return the queries by pool; every query is in one group, and there is at least one group.

        Args:
            side: `any`, `same` or `weighted`.
            count: Number of queries, Q.
            viewpoints: Viewpoint of each query, "" for unknown, shape (Q,); None if all are unknown.
            species: Species of each query, likewise.
        """
        asked = np.column_stack([_texts(None if side == "any" else viewpoints, count), _texts(species, count)])
        if not count:
            return [self._group(np.arange(0), "", "", side)]
        if (asked == asked[0]).all():
            return [self._group(np.arange(count), str(asked[0, 0]), str(asked[0, 1]), side)]
        kinds, places = np.unique(asked, axis=0, return_inverse=True)
        return [
            self._group(np.flatnonzero(places.ravel() == place), str(viewpoint), str(one), side)
            for place, (viewpoint, one) in enumerate(kinds)
        ]

    def rank(
        self,
        queries: np.ndarray,
        setting: RetrievalSetting,
        *,
        first: int,
        individuals: int = 50,
        viewpoints: Sequence[str] | np.ndarray | None = None,
        species: Sequence[str] | np.ndarray | None = None,
        ready: bool = False,
        refine: Refine | None = None,
    ) -> PooledRanking:
        """Return the ranking of queries, and the nearest image of the first individuals.

        Args:
            queries: Vectors, shape (Q, D).
            setting: The retrieval setting.
            first: Number of individuals whose nearest image is returned.
            individuals: Smallest number of individuals to rank, if the pool has that many.
            viewpoints: As in `groups`.
            species: As in `groups`.
            ready: The queries come from `normalize_rows`; False normalizes them.
            refine: Replaces the ranking of each group of queries; None keeps it.
        """
        asked, mode = queries if ready else normalize_rows(queries), setting.search_mode
        groups = self.groups(setting.side, len(asked), viewpoints=viewpoints, species=species)
        rankings, nearest = [], []
        for group in groups:
            vectors, searcher = asked[group.queries], group.pool.searcher
            ranking = searcher.rank(vectors, setting, individuals=individuals, penalized=group.penalized, ready=True)
            if refine is not None:
                ranking = refine(vectors, group, ranking)
            made_by = mode if refine is None else None
            cosines, images = searcher.nearest_images(vectors, ranking, made_by, first=first, ready=True)
            rankings.append(group.pool.in_gallery(ranking))
            nearest.append((cosines, group.pool.gallery_rows(images)))
        places = [group.queries for group in groups]
        pools = {int(query): group.pool for group in groups for query in group.queries}
        return PooledRanking(
            join_rankings(rankings, places),
            join_rows([cosines for cosines, _ in nearest], places, np.nan),
            join_rows([images for _, images in nearest], places, -1),
            tuple(pools[query] for query in range(len(asked))),
        )

    def _group(self, queries: np.ndarray, viewpoint: str, species: str, side: str) -> QueryGroup:
        pool = self._pool(viewpoint, species, side)
        if side != "weighted":
            return QueryGroup(queries, pool, None)
        shown = self._viewpoints[pool.rows]
        others, is_seen = (shown != viewpoint) & (shown != ""), viewpoint != "" and bool((shown == viewpoint).any())
        return QueryGroup(queries, pool, others if is_seen and others.any() else None)

    def _pool(self, viewpoint: str, species: str, side: str) -> Pool:
        species = species if (self._species != "").any() else ""
        kept = np.isin(self._species, ["", species]) if species else np.ones(len(self.index), dtype=bool)
        if side != "same" or not (viewpoint and (self._viewpoints[kept] == viewpoint).any()):
            viewpoint = ""
        if (viewpoint, species) not in self._pools:
            kept &= np.isin(self._viewpoints, ["", viewpoint]) if viewpoint else True
            self._pools[viewpoint, species] = self._part(kept, viewpoint, species)
        return self._pools[viewpoint, species]

    def _part(self, kept: np.ndarray, viewpoint: str, species: str) -> Pool:
        """Return the pool of some gallery rows, bool, shape (N,)."""
        if kept.all():
            return replace(self._pools["", ""], viewpoint=viewpoint, species=species)
        index = self.index
        places = np.flatnonzero(kept[index.rows])  # in the order of the index: equal cosines keep their order
        labels = index.names[index.codes[places]]
        searcher = GallerySearcher(index.vectors[places], labels, proxies=self._proxies, ready=True)
        return Pool(searcher, index.rows[places], index.codes_of(searcher.index.names), viewpoint, species)


def _texts(values: Sequence[str] | np.ndarray | None, count: int) -> np.ndarray:
    return np.full(count, "") if values is None else np.asarray(values, dtype=str).reshape(count)


def _distinct(texts: np.ndarray) -> list[str]:
    """Return the texts that are not empty, each once, sorted."""
    return sorted({*texts.tolist()} - {""})
