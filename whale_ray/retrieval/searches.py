"""Gallery and queries of one evaluation: a search for each distinct set of vectors, an outcome for each setting.

Knows photographs as rows: vectors, names, parts. Knows no score and no choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from whale_ray.retrieval.gallery import GalleryIndex, combine_views
from whale_ray.retrieval.metrics import CUTOFFS, find_ranks
from whale_ray.retrieval.neighbours import Neighbours, find_by_centroid, find_neighbours
from whale_ray.retrieval.ranking import VOTES, rank_individuals
from whale_ray.retrieval.scoring import Outcome, Queries, read_outcome
from whale_ray.retrieval.setting import RetrievalSetting


class Searches:
    """What a search found, made once for each set of vectors that the settings see.

    Arguments as `evaluation.evaluate`. rows, gallery: the places of the queries and of the gallery in `individuals`.
    """

    def __init__(
        self,
        views: Mapping[str, np.ndarray],
        settings: Sequence[RetrievalSetting],
        *,
        individuals: np.ndarray,
        parts: np.ndarray,
        unknown_label: str,
        held_out_as_new: bool,
    ) -> None:
        self.views = views
        self.individuals = np.asarray(individuals, dtype=str)
        self.rows = np.flatnonzero(np.asarray(parts) == "val")
        self.gallery = np.flatnonzero((np.asarray(parts) == "train") & (self.individuals != unknown_label))
        self.depths = {
            flip: max(CUTOFFS[-1], *(setting.neighbours or 1 for setting in settings if setting.flip == flip))
            for flip in {setting.flip for setting in settings}
        }
        self.unknown_label, self.held_out_as_new = unknown_label, held_out_as_new
        self._found: dict[str, tuple[GalleryIndex, Neighbours]] = {}
        self._by_centroid: dict[str, Neighbours] = {}
        self._image_ranks: dict[str, np.ndarray] = {}

    @cached_property
    def queries(self) -> Queries:
        """The right answers; the same whatever vectors are searched."""
        index, _ = self.found(next(iter(self.depths)))
        labels = self.individuals[self.rows]
        truth = index.codes_of(labels)
        new = labels == self.unknown_label
        images = np.append(index.images_per_individual, 0)[truth]
        return Queries(truth, new | (self.held_out_as_new & (truth < 0)), images, len(index), len(index.names))

    def found(self, flip: str) -> tuple[GalleryIndex, Neighbours]:
        """The gallery in this view and what the queries found in it."""
        if flip not in self._found:
            vectors = combine_views(self.views, flip)
            index = GalleryIndex(vectors[self.gallery], self.individuals[self.gallery])
            neighbours = find_neighbours(vectors[self.rows], index, neighbours=self.depths[flip])
            self._found[flip] = (index, neighbours)
        return self._found[flip]

    def outcome(self, setting: RetrievalSetting) -> Outcome:
        """What the setting gives each query."""
        index, found = self.found(setting.flip)
        image_ranks = self._ranks_of_images(setting.flip, found)
        if VOTES[setting.vote].by_centroid:
            found = self._found_by_centroid(setting.flip, index)
        ranking = rank_individuals(
            found, vote=setting.vote, neighbours=setting.neighbours, temperature=setting.temperature
        )
        return read_outcome(ranking, image_ranks, self.queries)

    def _ranks_of_images(self, flip: str, found: Neighbours) -> np.ndarray:
        """The rank of each query's first right image; no vote in it, so all settings of a view share it."""
        if flip not in self._image_ranks:
            nearest = np.take_along_axis(found.individuals, found.columns[:, : CUTOFFS[-1]], axis=1)
            self._image_ranks[flip] = find_ranks(nearest, self.queries.truth)
        return self._image_ranks[flip]

    def _found_by_centroid(self, flip: str, index: GalleryIndex) -> Neighbours:
        if flip not in self._by_centroid:
            vectors = combine_views({view: array[self.rows] for view, array in self.views.items()}, flip)
            self._by_centroid[flip] = find_by_centroid(vectors, index)
        return self._by_centroid[flip]
