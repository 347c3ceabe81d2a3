"""A gallery that answers queries in any manner of search: the one way from vectors to a ranking, measured and served.

Knows vectors, names and settings; no view, no score and no threshold.
"""

from __future__ import annotations

import numpy as np

from whale_ray.errors import InputError
from whale_ray.retrieval.search.exact_search import Rescore
from whale_ray.retrieval.search.gallery_index import GalleryIndex
from whale_ray.retrieval.search.k_reciprocal import Reciprocal
from whale_ray.retrieval.search.neighbors import Neighbours, find_by_centroid, find_neighbours, nearest_images
from whale_ray.retrieval.search.proxy_classifier import Classifier
from whale_ray.retrieval.search.query_expansion import augment_gallery, expand_queries
from whale_ray.retrieval.search.retrieval_config import Manner, Rerank, RetrievalSetting
from whale_ray.retrieval.search.voting import VOTES, Ranking, rank_individuals


class Matcher:
    """A gallery, prepared once for each manner in which it is searched, and asked often.

    vectors: (N, D), labels: N names. `index` is the gallery as it was given, whose codes and rows every answer has.
    proxies: (P, D) and P names, where a classifier is to be mixed in. ready: as of `GalleryIndex`.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        labels: np.ndarray,
        *,
        proxies: tuple[np.ndarray, np.ndarray] | None = None,
        ready: bool = False,
    ) -> None:
        self.index = GalleryIndex(vectors, labels, ready=ready)
        self._classifier = None if proxies is None else Classifier(self.index, *proxies)
        self._augmented: dict[int, GalleryIndex] = {}
        self._reciprocal: dict[tuple[int, Rerank], Reciprocal] = {}

    def prepare(self, manner: Manner) -> None:
        """Does now what the first search in this manner would have to do once."""
        self._rescore(manner)

    def find(self, queries: np.ndarray, manner: Manner, *, individuals: int = 50, neighbours: int = 1) -> Neighbours:
        """As `find_neighbours` of queries (Q, D), in this manner; what it calls cosines are then that search's scores.

        Expanded queries meet the augmented gallery; what they find there is re-ranked, and then mixed with what the
        classifier says of them.

        Raises: InputError where a classifier is asked for and there are no proxies.
        """
        index = self._searched(manner)
        asked = expand_queries(queries, index, manner.expand_query)
        return find_neighbours(
            asked, index, individuals=individuals, neighbours=neighbours, rescore=self._rescore(manner)
        )

    def find_by_centroid(self, queries: np.ndarray, manner: Manner, *, individuals: int = 50) -> Neighbours:
        """As `find_by_centroid`: expanded queries, and the class means of the augmented gallery."""
        index = self._searched(manner)
        return find_by_centroid(expand_queries(queries, index, manner.expand_query), index, individuals=individuals)

    def rank(self, queries: np.ndarray, setting: RetrievalSetting, *, individuals: int = 50) -> Ranking:
        """Search and vote in one step: the ranking (Q, >= `individuals`, or all there are) of queries (Q, D)."""
        if VOTES[setting.vote].by_centroid:
            found = self.find_by_centroid(queries, setting.manner, individuals=individuals)
        else:
            found = self.find(queries, setting.manner, individuals=individuals, neighbours=setting.neighbours or 1)
        return rank_individuals(
            found, vote=setting.vote, neighbours=setting.neighbours, temperature=setting.temperature
        )

    def nearest_images(
        self, queries: np.ndarray, ranking: Ranking, manner: Manner, *, first: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The largest cosine to each of the `first` individuals of a ranking, and the gallery row it belongs to.

        Of the vectors as they are, neither expanded nor re-ranked: it is what a person sees of an answer.
        """
        if manner.plain:
            return ranking.cosines[:, :first], ranking.images[:, :first]
        return nearest_images(queries, self.index, ranking.individuals[:, :first])

    def _searched(self, manner: Manner) -> GalleryIndex:
        count = manner.augment_gallery
        if count not in self._augmented:
            self._augmented[count] = augment_gallery(self.index, count)
        return self._augmented[count]

    def _rescore(self, manner: Manner) -> Rescore | None:
        rescore, weight = self._reranked(manner), manner.classifier_weight
        if not weight:
            return rescore
        classifier = self._classifier
        if classifier is None:
            raise InputError(f"classifier_weight {weight} needs the proxies of a loss, but there are none. Give 0")

        def mixed(queries: np.ndarray, cosines: np.ndarray) -> np.ndarray:
            scores = cosines if rescore is None else rescore(queries, cosines)
            return classifier.mix(queries, scores, weight)

        return mixed

    def _reranked(self, manner: Manner) -> Rescore | None:
        index = self._searched(manner)
        if manner.rerank is None:
            return None
        key = (manner.augment_gallery, manner.rerank)
        if key not in self._reciprocal:
            self._reciprocal[key] = Reciprocal(index, manner.rerank)
        return self._reciprocal[key]
