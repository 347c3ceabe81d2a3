"""Galleries and queries of one evaluation: a search for each distinct set of vectors, an outcome for each setting.

Knows photographs as rows: vectors, names, parts. Knows no score and no choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from whale_ray.retrieval.gallery import GalleryIndex, combine_views, views_of
from whale_ray.retrieval.metrics import CUTOFFS, find_ranks
from whale_ray.retrieval.neighbours import Neighbours, find_by_centroid, find_neighbours
from whale_ray.retrieval.ranking import VOTES, rank_individuals
from whale_ray.retrieval.scoring import Outcome, Queries, join_outcomes, join_queries, read_outcome
from whale_ray.retrieval.setting import RetrievalSetting, View
from whale_ray.retrieval.whitening import Whitening, fit_whitening


class Vectors:
    """The vectors of N photographs as each setting sees them; a whitening is fitted once, on those of `train`.

    views: `plain` and, where a setting wants it, `flip`: float16 (N, D). individuals, parts: (N,).
    """

    def __init__(
        self, views: Mapping[str, np.ndarray], *, individuals: np.ndarray, parts: np.ndarray, unknown_label: str
    ) -> None:
        self.views = views
        self.individuals = np.asarray(individuals, dtype=str)
        self.training, self.asking = (np.asarray(parts) == part for part in ("train", "val"))
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
    """What a search found, made once for each set of vectors that the settings see, in each split's own gallery.

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
        depths = {
            view: max(CUTOFFS[-1], *(setting.neighbours or 1 for setting in settings if setting.view == view))
            for view in dict.fromkeys(setting.view for setting in settings)
        }
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

    def __init__(
        self, vectors: Vectors, rows: np.ndarray, depths: Mapping[View, int], *, held_out_as_new: bool
    ) -> None:
        self.vectors, self.rows, self.depths = vectors, rows, depths
        named = vectors.individuals != vectors.unknown_label
        self.asking = np.flatnonzero(vectors.asking)
        self.gallery = np.flatnonzero(vectors.training & named)
        self.held_out_as_new = held_out_as_new
        self._found: dict[View, tuple[np.ndarray, GalleryIndex, Neighbours]] = {}
        self._by_centroid: dict[View, Neighbours] = {}
        self._image_ranks: dict[View, np.ndarray] = {}

    @cached_property
    def queries(self) -> Queries:
        """The right answers in this gallery."""
        _, index, _ = self.found(next(iter(self.depths)))
        labels = self.vectors.individuals[self.asking]
        truth = index.codes_of(labels)
        new = (labels == self.vectors.unknown_label) | (self.held_out_as_new & (truth < 0))
        images = np.append(index.images_per_individual, 0)[truth]
        return Queries(truth, new, images, *(np.full(len(truth), size) for size in (len(index), len(index.names))))

    def found(self, view: View) -> tuple[np.ndarray, GalleryIndex, Neighbours]:
        """The queries' vectors in this view, the gallery, and what they found in it."""
        if view not in self._found:
            vectors = self.vectors.seen(view)
            index = GalleryIndex(vectors[self.gallery], self.vectors.individuals[self.gallery])
            queries = vectors[self.asking]
            self._found[view] = (queries, index, find_neighbours(queries, index, neighbours=self.depths[view]))
        return self._found[view]

    def outcome(self, setting: RetrievalSetting) -> Outcome:
        """What the setting gives each query of this gallery."""
        view = setting.view
        queries, index, found = self.found(view)
        image_ranks = self._ranks_of_images(view, found)
        if VOTES[setting.vote].by_centroid:
            if view not in self._by_centroid:
                self._by_centroid[view] = find_by_centroid(queries, index)
            found = self._by_centroid[view]
        ranking = rank_individuals(
            found, vote=setting.vote, neighbours=setting.neighbours, temperature=setting.temperature
        )
        return read_outcome(ranking, image_ranks, self.queries, rows=self.rows[self.gallery])

    def _ranks_of_images(self, view: View, found: Neighbours) -> np.ndarray:
        """The rank of each query's first right image; no vote in it, so all settings of a view share it."""
        if view not in self._image_ranks:
            nearest = np.take_along_axis(found.individuals, found.columns[:, : CUTOFFS[-1]], axis=1)
            self._image_ranks[view] = find_ranks(nearest, self.queries.truth)
        return self._image_ranks[view]
