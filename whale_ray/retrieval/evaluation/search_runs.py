"""Galleries and queries of one evaluation: a search for each distinct way to search, an outcome for each setting.

Knows photographs as rows: vectors, names, parts. Knows no score and no choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from whale_ray.retrieval.evaluation.metrics import CUTOFFS, find_ranks
from whale_ray.retrieval.evaluation.selection import Outcome, Queries, join_outcomes, join_queries, read_outcome
from whale_ray.retrieval.search.gallery_index import combine_views, views_of
from whale_ray.retrieval.search.neighbors import Neighbours
from whale_ray.retrieval.search.retrieval_config import Manner, RetrievalSetting, View
from whale_ray.retrieval.search.searcher import Matcher
from whale_ray.retrieval.search.voting import VOTES, rank_individuals
from whale_ray.retrieval.search.whitening import Whitening, fit_whitening

PROXY = "proxy"
"""The part of rows that are no photographs but proxies of a loss, whom a classifier compares queries with."""

Way = tuple[View, Manner]


def _way(setting: RetrievalSetting) -> Way:
    """Which vectors a setting searches, and how."""
    return setting.view, setting.manner


class Vectors:
    """The vectors of N photographs as each setting sees them; a whitening is fitted once, on those of `train`.

    views: `plain` and, where a setting wants it, `flip`: float16 (N, D). individuals, parts: (N,). Rows of the part
    PROXY go the way of all others.
    """

    def __init__(
        self, views: Mapping[str, np.ndarray], *, individuals: np.ndarray, parts: np.ndarray, unknown_label: str
    ) -> None:
        self.views = views
        self.individuals = np.asarray(individuals, dtype=str)
        self.training, self.asking, self.proxies = (np.asarray(parts) == part for part in ("train", "val", PROXY))
        self.unknown_label = unknown_label
        self._fitted: dict[str, Whitening] = {}

    def whitening(self, view: View) -> Whitening | None:
        """What whitens this view; None where nothing does. Raises: InputError where it cannot be learned."""
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

    def seen(self, view: View) -> np.ndarray:
        """Unit vectors, float16 (N, d): each view whitened, then combined."""
        whitening = self.whitening(view)
        if whitening is None:
            return combine_views(self.views, view.flip)
        white = {name: whitening.apply(self.views[name]) for name in views_of(view.flip) if name in self.views}
        return combine_views(white, view.flip)


class Searches:
    """What a search found, made once for each way in which the settings search, in each split's own gallery.

    Arguments as `evaluation.evaluate`. rows: the places of the queries in `individuals`, those of a split together.
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
    ) -> None:
        self.individuals, parts = np.asarray(individuals, dtype=str), np.asarray(parts)
        splits = np.zeros(len(parts), dtype=np.int64) if splits is None else np.asarray(splits)
        depths: dict[Way, int] = {}
        for setting in settings:
            depths[_way(setting)] = max(CUTOFFS[-1], depths.get(_way(setting), 1), setting.neighbours or 1)
        self._splits = []
        for rows in (np.flatnonzero(splits == split) for split in (np.unique(splits) if len(splits) else (0,))):
            vectors = Vectors(
                {name: view[rows] for name, view in views.items()},
                individuals=self.individuals[rows],
                parts=parts[rows],
                unknown_label=unknown_label,
            )
            self._splits.append(_Search(vectors, rows, depths, held_out_as_new=held_out_as_new))
        self.rows = np.concatenate([one.rows[one.asking] for one in self._splits])

    @cached_property
    def queries(self) -> Queries:
        """The right answers; the same whatever vectors are searched."""
        return join_queries([one.queries for one in self._splits])

    def outcome(self, setting: RetrievalSetting) -> Outcome:
        """What the setting gives each query."""
        return join_outcomes([one.outcome(setting) for one in self._splits])


class _Search:
    """One gallery and the queries that are searched in it.

    rows: (n,), where the photographs of `vectors` stand among all. asking, gallery: the places in `rows` of either.
    """

    def __init__(self, vectors: Vectors, rows: np.ndarray, depths: Mapping[Way, int], *, held_out_as_new: bool) -> None:
        self.vectors, self.rows, self.depths = vectors, rows, depths
        named = vectors.individuals != vectors.unknown_label
        self.asking = np.flatnonzero(vectors.asking)
        self.gallery = np.flatnonzero(vectors.training & named)
        self.held_out_as_new = held_out_as_new
        self._matchers: dict[View, tuple[np.ndarray, Matcher]] = {}
        self._found: dict[Way, Neighbours] = {}
        self._by_centroid: dict[Way, Neighbours] = {}
        self._image_ranks: dict[Way, np.ndarray] = {}

    @cached_property
    def queries(self) -> Queries:
        """The right answers in this gallery."""
        index = self.matcher(next(iter(self.depths))[0])[1].index
        labels = self.vectors.individuals[self.asking]
        truth = index.codes_of(labels)
        new = (labels == self.vectors.unknown_label) | (self.held_out_as_new & (truth < 0))
        images = np.append(index.images_per_individual, 0)[truth]
        return Queries(truth, new, images, *(np.full(len(truth), size) for size in (len(index), len(index.names))))

    def matcher(self, view: View) -> tuple[np.ndarray, Matcher]:
        """The queries' vectors in this view, and the gallery."""
        if view not in self._matchers:
            vectors = self.vectors.seen(view)
            individuals, proxies = self.vectors.individuals, np.flatnonzero(self.vectors.proxies)
            matcher = Matcher(
                vectors[self.gallery],
                individuals[self.gallery],
                proxies=(vectors[proxies], individuals[proxies]) if len(proxies) else None,
            )
            self._matchers[view] = (vectors[self.asking], matcher)
        return self._matchers[view]

    def outcome(self, setting: RetrievalSetting) -> Outcome:
        """What the setting gives each query of this gallery."""
        queries, matcher = self.matcher(setting.view)
        found = self._found_by_centroid(setting) if VOTES[setting.vote].by_centroid else self._found_in(_way(setting))
        ranking = rank_individuals(
            found, vote=setting.vote, neighbours=setting.neighbours, temperature=setting.temperature
        )
        _, images = matcher.nearest_images(queries, ranking, setting.manner, first=1)
        return read_outcome(
            ranking, self._ranks_of_images(_way(setting)), self.queries, nearest=images, rows=self.rows[self.gallery]
        )

    def _found_in(self, way: Way) -> Neighbours:
        if way not in self._found:
            queries, matcher = self.matcher(way[0])
            self._found[way] = matcher.find(queries, way[1], neighbours=self.depths[way])
        return self._found[way]

    def _found_by_centroid(self, setting: RetrievalSetting) -> Neighbours:
        way = _way(setting)
        if way not in self._by_centroid:
            queries, matcher = self.matcher(setting.view)
            self._by_centroid[way] = matcher.find_by_centroid(queries, setting.manner)
        return self._by_centroid[way]

    def _ranks_of_images(self, way: Way) -> np.ndarray:
        """The rank of each query's first right image; no vote in it, so all settings that search alike share it."""
        if way not in self._image_ranks:
            found = self._found_in(way)
            nearest = np.take_along_axis(found.individuals, found.columns[:, : CUTOFFS[-1]], axis=1)
            self._image_ranks[way] = find_ranks(nearest, self.queries.truth)
        return self._image_ranks[way]
