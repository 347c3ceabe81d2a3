"""Gallery searcher: the one way from vectors to a ranking, used for measuring and for serving."""

from __future__ import annotations

import numpy as np

from whale_ray.errors import InputError
from whale_ray.retrieval.search.exact_search import Rescore
from whale_ray.retrieval.search.gallery_index import GalleryIndex, normalize_rows
from whale_ray.retrieval.search.k_reciprocal import KReciprocalReranker
from whale_ray.retrieval.search.nearest_images.inverted_lists import LISTS_FROM, make_lists
from whale_ray.retrieval.search.neighbor_search import Neighbors, find_by_centroid, find_neighbors, nearest_images
from whale_ray.retrieval.search.proxy_classifier import ClassProxies, ProxyClassifier
from whale_ray.retrieval.search.query_expansion import augment_gallery, expand_queries
from whale_ray.retrieval.search.retrieval_settings import Rerank, RetrievalSetting, SearchMode
from whale_ray.retrieval.search.voting import VOTES, Ranking, rank_individuals


class GallerySearcher:
    """A gallery that is prepared once per search mode and then answers queries.

    Args:
        vectors: Shape (N, D).
        labels: N names.
        proxies: Class proxies; None without a proxy classifier.
        ready: The vectors come from `normalize_rows`.

    Attributes:
        index: The gallery as given; its codes and rows are those of every answer.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        labels: np.ndarray,
        *,
        proxies: ClassProxies | None = None,
        ready: bool = False,
    ) -> None:
        self.index = GalleryIndex(vectors, labels, ready=ready)
        self._classifier = None if proxies is None else ProxyClassifier(self.index, proxies)
        self._augmented: dict[int, GalleryIndex] = {}
        self._reciprocal: dict[tuple[int, Rerank], KReciprocalReranker] = {}

    def prepare(self, mode: SearchMode) -> None:
        """Does now what the first search in this mode would have to do once."""
        self._rescore(mode)

    def use_lists(self, mode: SearchMode) -> None:
        """Make inverted lists if the gallery is large enough for them to pay and the mode is plain.

        Other modes search exactly: re-ranking, a proxy classifier and a penalty need the scores of all images, and one
        missing neighbor changes all scores of an expansion.
        """
        if mode.plain and len(self.index) >= LISTS_FROM and self.index.lists is None:
            self.index.lists = make_lists(self.index.vectors)

    def expand(self, queries: np.ndarray, mode: SearchMode) -> tuple[np.ndarray, GalleryIndex]:
        """Return the expanded queries of a search mode and the augmented gallery that they meet.

        Args:
            queries: Vectors from `normalize_rows`, shape (Q, D).
            mode: The search mode.
        """
        index = self._searched(mode)
        return expand_queries(queries, index, mode.expand_query), index

    def find(
        self,
        queries: np.ndarray,
        mode: SearchMode,
        *,
        individuals: int = 50,
        neighbours: int = 1,
        penalized: np.ndarray | None = None,
        ready: bool = False,
    ) -> Neighbors:
        """Return the neighbors of queries in a search mode; the `cosines` of the result are the scores of that mode.

        Expanded queries meet the augmented gallery. The result is re-ranked, then mixed with the proxy classifier.

        Args:
            queries: Vectors, shape (Q, D).
            mode: The search mode.
            individuals: Number of individuals per query.
            neighbours: Number of images per query.
            penalized: Gallery rows whose scores the mode's `side_penalty` lowers, bool, shape (N,); None for none.
            ready: The queries come from `normalize_rows`; False normalizes them.

        Raises:
            InputError: If the mode needs a proxy classifier and there are no proxies.
        """
        asked, index = self.expand(_unit(queries, ready), mode)
        rescore = self._rescore(mode)
        if penalized is not None:
            rescore = _lowered(rescore, mode.side_penalty * penalized[self.index.rows])
        wanted = {"individuals": individuals, "neighbours": neighbours}
        return find_neighbors(asked, index, rescore=rescore, by_lists=mode.plain, **wanted)

    def find_by_centroid(
        self,
        queries: np.ndarray,
        mode: SearchMode,
        *,
        individuals: int = 50,
        penalized: np.ndarray | None = None,
        ready: bool = False,
    ) -> Neighbors:
        """Return individuals by class mean: expanded queries against the means of the augmented gallery.

        The penalty falls on individuals all of whose images are penalized.

        Args:
            queries: Vectors, shape (Q, D).
            mode: The search mode.
            individuals: Number of individuals per query.
            penalized: As in `find`.
            ready: The queries come from `normalize_rows`; False normalizes them.
        """
        asked, index = self.expand(_unit(queries, ready), mode)
        rescore = None
        if penalized is not None and len(index):
            unseen = np.logical_and.reduceat(penalized[index.rows], index.starts)
            rescore = _lowered(None, mode.side_penalty * unseen)
        return find_by_centroid(asked, index, individuals=individuals, rescore=rescore)

    def rank(
        self,
        queries: np.ndarray,
        setting: RetrievalSetting,
        *,
        individuals: int = 50,
        penalized: np.ndarray | None = None,
        ready: bool = False,
    ) -> Ranking:
        """Return the ranking of queries under a retrieval setting: search and vote.

        Args:
            queries: Vectors, shape (Q, D).
            setting: The retrieval setting.
            individuals: Smallest number of individuals to rank, if the gallery has that many.
            penalized: As in `find`.
            ready: The queries come from `normalize_rows`; False normalizes them.
        """
        mode, asked = setting.search_mode, _unit(queries, ready)
        if VOTES[setting.vote].by_centroid:
            found = self.find_by_centroid(asked, mode, individuals=individuals, penalized=penalized, ready=True)
        else:
            images = setting.neighbours or 1
            found = self.find(asked, mode, individuals=individuals, neighbours=images, penalized=penalized, ready=True)
        return rank_individuals(
            found, vote=setting.vote, neighbours=setting.neighbours, temperature=setting.temperature
        )

    def nearest_images(
        self, queries: np.ndarray, ranking: Ranking, mode: SearchMode | None, *, first: int, ready: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the largest cosine and its gallery row for the first individuals of a ranking.

        Computed on the plain vectors, neither expanded nor re-ranked: it is the distance shown in an answer.

        Args:
            queries: Vectors, shape (Q, D).
            ranking: A ranking of these queries.
            mode: The search mode that made it; None for a ranking by other scores.
            first: Number of individuals.
            ready: The queries come from `normalize_rows`; False normalizes them.
        """
        if mode is not None and mode.plain:
            return ranking.cosines[:, :first], ranking.images[:, :first]
        return nearest_images(_unit(queries, ready), self.index, ranking.individuals[:, :first])

    def _searched(self, mode: SearchMode) -> GalleryIndex:
        count = mode.augment_gallery
        if count not in self._augmented:
            self._augmented[count] = augment_gallery(self.index, count)
        return self._augmented[count]

    def _rescore(self, mode: SearchMode) -> Rescore | None:
        rescore, weight = self._reranked(mode), mode.classifier_weight
        if not weight:
            return rescore
        classifier = self._classifier
        if classifier is None:
            raise InputError(f"classifier_weight {weight} needs the proxies of a loss, but there are none. Give 0")

        def mixed(queries: np.ndarray, cosines: np.ndarray) -> np.ndarray:
            scores = cosines if rescore is None else rescore(queries, cosines)
            return classifier.mix(queries, scores, weight)

        return mixed

    def _reranked(self, mode: SearchMode) -> Rescore | None:
        index = self._searched(mode)
        if mode.rerank is None:
            return None
        key = (mode.augment_gallery, mode.rerank)
        if key not in self._reciprocal:
            self._reciprocal[key] = KReciprocalReranker(index, mode.rerank)
        return self._reciprocal[key]


def _lowered(rescore: Rescore | None, penalties: np.ndarray) -> Rescore:
    """Return scores lowered by the penalty of each vector of the index, shape (N,)."""

    def lowered(queries: np.ndarray, cosines: np.ndarray) -> np.ndarray:
        return np.asarray((cosines if rescore is None else rescore(queries, cosines)) - penalties)

    return lowered


def _unit(queries: np.ndarray, ready: bool) -> np.ndarray:
    return queries if ready else normalize_rows(queries)
