"""Searches of one evaluation: one search per distinct transform and search mode, one outcome per setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from whale_ray.retrieval.evaluation.metrics import find_ranks
from whale_ray.retrieval.evaluation.outcomes import Outcome, Queries, join_outcomes, join_queries, read_outcome
from whale_ray.retrieval.evaluation.score_names import CUTOFFS
from whale_ray.retrieval.search.gallery_index import combine_views, normalize_rows, required_views
from whale_ray.retrieval.search.neighbor_search import Neighbors
from whale_ray.retrieval.search.proxy_classifier import ClassProxies
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting, SearchMode, VectorTransform
from whale_ray.retrieval.search.searcher import GallerySearcher
from whale_ray.retrieval.search.voting import VOTES, rank_individuals
from whale_ray.retrieval.search.whitening import Whitening, fit_whitening

SearchKey = tuple[VectorTransform, SearchMode]


def _search_key(setting: RetrievalSetting) -> SearchKey:
    """Return transform and search mode of a setting."""
    return setting.transform, setting.search_mode


class TransformedVectors:
    """Vectors of N photographs after each transform; a whitening is fitted once, on the rows of `train`.

    Args:
        views: `plain` and, if a setting needs it, `flip`: float16, shape (N, D).
        individuals: Shape (N,).
        parts: Shape (N,).
        unknown_label: Label of unknown individuals.
        proxies: Class proxies, transformed like the photographs.
    """

    def __init__(
        self,
        views: Mapping[str, np.ndarray],
        *,
        individuals: np.ndarray,
        parts: np.ndarray,
        unknown_label: str,
        proxies: ClassProxies | None = None,
    ) -> None:
        self.views = views
        self.individuals = np.asarray(individuals, dtype=str)
        self.training, self.asking = (np.asarray(parts) == part for part in ("train", "val"))
        self.proxies = proxies
        self.unknown_label = unknown_label
        self._fitted: dict[str, Whitening] = {}

    def whitening(self, view: VectorTransform) -> Whitening | None:
        """Return the whitening of a transform; None if it has none.

        Raises:
            InputError: If it cannot be fitted.
        """
        if view.whiten == "none":
            return None
        if view.whiten not in self._fitted:
            self._fitted[view.whiten] = fit_whitening(
                self.views["plain"][self.training],
                self.individuals[self.training],
                kind=view.whiten,
                unknown_label=self.unknown_label,
            )
        fitted = self._fitted[view.whiten]
        return fitted if view.whitened_size is None else fitted.shortened(view.whitened_size)

    def seen(self, view: VectorTransform) -> np.ndarray:
        """Unit vectors, float16 (N, d): each view whitened, then combined."""
        return self._transform(self.views, view)

    def transform_proxies(self, transform: VectorTransform) -> ClassProxies | None:
        """Return the class proxies, float16 (P, d), in the space of `seen`; None if there are none."""
        if self.proxies is None:
            return None
        same_in_each_view = dict.fromkeys(self.views, self.proxies.vectors)
        return replace(self.proxies, vectors=self._transform(same_in_each_view, transform))

    def _transform(self, views: Mapping[str, np.ndarray], transform: VectorTransform) -> np.ndarray:
        whitening = self.whitening(transform)
        if whitening is None:
            return combine_views(views, transform.flip)
        white = {name: whitening.apply(views[name]) for name in required_views(transform.flip) if name in views}
        return combine_views(white, transform.flip)


class SearchRuns:
    """Search results, computed once per transform and search mode, in the gallery of each split.

    Args:
        views: As in `evaluate.evaluate`.
        settings: As in `evaluate.evaluate`.
        individuals: As in `evaluate.evaluate`.
        parts: As in `evaluate.evaluate`.
        splits: As in `evaluate.evaluate`.
        unknown_label: Label of unknown individuals.
        held_out_as_new: As in `evaluate.evaluate`.
        proxies: As in `evaluate.evaluate`.

    Attributes:
        rows: Positions of the queries in `individuals`, those of a split together.
    """

    def __init__(
        self,
        views: Mapping[str, np.ndarray],
        settings: Sequence[RetrievalSetting],
        *,
        individuals: np.ndarray,
        parts: np.ndarray,
        splits: np.ndarray | None,
        unknown_label: str,
        held_out_as_new: bool,
        proxies: Mapping[int, ClassProxies] | None = None,
    ) -> None:
        self.individuals, parts = np.asarray(individuals, dtype=str), np.asarray(parts)
        splits = np.zeros(len(parts), dtype=np.int64) if splits is None else np.asarray(splits)
        depths: dict[SearchKey, int] = {}
        for setting in settings:
            depths[_search_key(setting)] = max(
                CUTOFFS[-1], depths.get(_search_key(setting), 1), setting.neighbours or 1
            )
        self._splits = []
        for split in np.unique(splits).tolist() or [0]:
            rows = np.flatnonzero(splits == split)
            vectors = TransformedVectors(
                {name: view[rows] for name, view in views.items()},
                individuals=self.individuals[rows],
                parts=parts[rows],
                unknown_label=unknown_label,
                proxies=(proxies or {}).get(split),
            )
            self._splits.append(_SearchRun(vectors, rows, depths, held_out_as_new=held_out_as_new))
        self.rows = np.concatenate([one.rows[one.asking] for one in self._splits])

    @cached_property
    def queries(self) -> Queries:
        """Return the right answers, which do not depend on the vectors."""
        return join_queries([one.queries for one in self._splits])

    def outcome(self, setting: RetrievalSetting) -> Outcome:
        """Return what a setting gives each query."""
        return join_outcomes([one.outcome(setting) for one in self._splits])


class _SearchRun:
    """One gallery and the queries that are searched in it.

    Args:
        vectors: Transformed vectors of the photographs.
        rows: Positions of these photographs among all, shape (n,).
        depths: Search depth by transform and search mode.
        held_out_as_new: Named queries without a gallery image count as unknown.
    """

    def __init__(
        self, vectors: TransformedVectors, rows: np.ndarray, depths: Mapping[SearchKey, int], *, held_out_as_new: bool
    ) -> None:
        self.vectors, self.rows, self.depths = vectors, rows, depths
        named = vectors.individuals != vectors.unknown_label
        self.asking = np.flatnonzero(vectors.asking)
        self.gallery = np.flatnonzero(vectors.training & named)
        self.held_out_as_new = held_out_as_new
        self._matchers: dict[VectorTransform, tuple[np.ndarray, GallerySearcher]] = {}
        self._found: dict[SearchKey, Neighbors] = {}
        self._by_centroid: dict[SearchKey, Neighbors] = {}
        self._image_ranks: dict[SearchKey, np.ndarray] = {}

    @cached_property
    def queries(self) -> Queries:
        """Return the right answers in this gallery."""
        index = self.searcher(next(iter(self.depths))[0])[1].index
        labels = self.vectors.individuals[self.asking]
        truth = index.codes_of(labels)
        new = (labels == self.vectors.unknown_label) | (self.held_out_as_new & (truth < 0))
        images = np.append(index.images_per_individual, 0)[truth]
        size, names = (np.full(len(truth), count) for count in (len(index), len(index.names)))
        return Queries(truth, new, images, gallery=size, individuals=names, labels=labels)

    def searcher(self, view: VectorTransform) -> tuple[np.ndarray, GallerySearcher]:
        """Return the transformed queries, unit vectors in float32, and the gallery."""
        if view not in self._matchers:
            vectors = self.vectors.seen(view)
            searcher = GallerySearcher(
                vectors[self.gallery],
                self.vectors.individuals[self.gallery],
                proxies=self.vectors.transform_proxies(view),
            )
            self._matchers[view] = (normalize_rows(vectors[self.asking]), searcher)
        return self._matchers[view]

    def outcome(self, setting: RetrievalSetting) -> Outcome:
        """Return what a setting gives each query of this gallery."""
        queries, searcher = self.searcher(setting.transform)
        found = (
            self._found_by_centroid(setting)
            if VOTES[setting.vote].by_centroid
            else self._found_in(_search_key(setting))
        )
        ranking = rank_individuals(
            found, vote=setting.vote, neighbours=setting.neighbours, temperature=setting.temperature
        )
        _, images = searcher.nearest_images(queries, ranking, setting.search_mode, first=1, ready=True)
        return read_outcome(
            ranking,
            self._ranks_of_images(_search_key(setting)),
            self.queries,
            nearest=images,
            rows=self.rows[self.gallery],
        )

    def _found_in(self, way: SearchKey) -> Neighbors:
        if way not in self._found:
            queries, searcher = self.searcher(way[0])
            self._found[way] = searcher.find(queries, way[1], neighbours=self.depths[way], ready=True)
        return self._found[way]

    def _found_by_centroid(self, setting: RetrievalSetting) -> Neighbors:
        way = _search_key(setting)
        if way not in self._by_centroid:
            queries, searcher = self.searcher(setting.transform)
            self._by_centroid[way] = searcher.find_by_centroid(queries, setting.search_mode, ready=True)
        return self._by_centroid[way]

    def _ranks_of_images(self, way: SearchKey) -> np.ndarray:
        """Return the rank of each query's first right image; independent of the vote."""
        if way not in self._image_ranks:
            found = self._found_in(way)
            nearest = np.take_along_axis(found.individuals, found.columns[:, : CUTOFFS[-1]], axis=1)
            self._image_ranks[way] = find_ranks(nearest, self.queries.truth)
        return self._image_ranks[way]
