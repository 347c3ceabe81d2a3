"""k-reciprocal re-ranking (Zhong et al., CVPR 2017).

Two images are similar if they are among each other's nearest images and their neighborhoods overlap. Neighborhoods are
built from the gallery alone and each query is compared with them by itself, so that a query gets the same score among
many queries and alone in service. In the paper, neighborhoods also contain the other queries.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from whale_ray.retrieval.search.exact_search import decode_positions, encode_keys, largest_keys
from whale_ray.retrieval.search.gallery_index import STEPS, GalleryIndex
from whale_ray.retrieval.search.query_expansion import find_others
from whale_ray.retrieval.search.retrieval_settings import Rerank

_ROWS = 64  # queries whose overlaps are added up together
_NUMBERS = 2**22  # held at once where vectors are multiplied pair by pair


class KReciprocalReranker:
    """Neighborhoods of a gallery of N images, and the scores of queries by them.

    N(x, k) are the k nearest gallery images of x. R(x, k) are those of them that have x among their own k nearest, and
    x itself if it is in the gallery. R*(x) is R(x, k1) with every R(y, k1 / 2) added, y in R(x, k1), of which at least
    two thirds are in R(x, k1). V(x) has exp(cos - 1) for each image in R*(x), divided by its sum, averaged with the V
    of the k2 - 1 nearest gallery images. The score of a query and an image is (1 - weight) J + weight cos, where J =
    sum of min / sum of max over their two V. It lies in [-1, 1], like a cosine.

    Cost: N x N cosines in blocks. Memory: N x k1 neighbors and V with about k1 to 10 k1 entries per image; 6 s and 0.5
    GB for 16,000 vectors of 512 dimensions on one thread. A query takes about 15 ms there.

    Args:
        index: The gallery.
        options: k1, k2 and weight.
    """

    def __init__(self, index: GalleryIndex, options: Rerank) -> None:
        self.options = options
        places, cosines = find_others(index, max(options.k1, options.k2 - 1))
        size = len(index)
        near, half = (_with_themselves(places[:, :k], size) for k in (options.k1, max(1, options.k1 // 2)))
        self._halves = _mutual(half)
        # below this cosine, in steps, an image has k1 others that are nearer
        self._limits = np.rint(cosines[:, options.k1 - 1] * STEPS) if size > options.k1 else np.full(size, -np.inf)
        circles = self._widened(_mutual(near))
        self._own = _weighted(circles, _pair_cosines(index.vectors, circles))
        self._averages = self._averaged(self._own, places)
        self._columns = self._averages.tocsc()

    def __call__(self, queries: np.ndarray, cosines: np.ndarray) -> np.ndarray:
        """Scores (q, N) of queries by their cosines to the gallery (q, N), in the order of the index."""
        keys = encode_keys(cosines, np.arange(cosines.shape[1]))
        places = decode_positions(largest_keys(keys, max(self.options.k1, self.options.k2 - 1)))
        near = places[:, : self.options.k1]
        steps = np.rint(np.take_along_axis(cosines, near, axis=1) * STEPS)
        mutual = _matrix(*_cells(near, steps >= self._limits[near]), cosines.shape)
        circles = self._widened(mutual)
        own = _weighted(circles, cosines[circles.nonzero()])
        overlaps = self._overlaps(self._averaged(own, places))
        return np.asarray((1.0 - self.options.weight) * overlaps + self.options.weight * cosines)

    def _widened(self, circles: sparse.csr_array) -> sparse.csr_array:
        """R*, (q, N), of R, (q, N)."""
        shared = circles.multiply(circles @ self._halves.T).tocsr()
        sizes = np.diff(self._halves.indptr)
        shared.data = (3 * shared.data >= 2 * sizes[shared.indices]).astype(np.int32)
        shared.eliminate_zeros()
        widened = (circles + shared @ self._halves).tocsr()
        widened.sort_indices()
        widened.data = np.ones_like(widened.data)
        return widened

    def _averaged(self, own: sparse.csr_array, places: np.ndarray) -> sparse.csr_array:
        """V averaged with that of the k2 - 1 nearest images, (q, N)."""
        nearest = places[:, : self.options.k2 - 1]
        others = _matrix(*_cells(nearest), own.shape).astype(np.float64)
        averages = ((own + others @ self._own) / (1 + nearest.shape[1])).tocsr()
        averages.sort_indices()
        return averages

    def _overlaps(self, vectors: sparse.csr_array) -> np.ndarray:
        """J of each V in `vectors` (q, N) and each of the gallery: (q, N)."""
        smaller = np.empty(vectors.shape)
        for start in range(0, len(smaller), _ROWS):
            smaller[start : start + _ROWS] = self._sum_of_minima(vectors[start : start + _ROWS])
        larger = vectors.sum(axis=1)[:, None] + self._averages.sum(axis=1) - smaller
        return smaller / np.where(larger > 0, larger, 1.0)

    def _sum_of_minima(self, vectors: sparse.csr_array) -> np.ndarray:
        """Looks only at gallery images that have something in common with a query: those in its columns."""
        queries, size = vectors.shape
        starts = self._columns.indptr[vectors.indices]
        counts = self._columns.indptr[vectors.indices + 1] - starts
        at = np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        rows = np.repeat(np.arange(queries), np.diff(vectors.indptr))
        minima = np.minimum(self._columns.data[at], np.repeat(vectors.data, counts))
        cells = np.repeat(rows, counts) * size + self._columns.indices[at]
        return np.bincount(cells, minima, minlength=queries * size).reshape(queries, size)


def _cells(places: np.ndarray, chosen: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each of the `places` (q, K), of those `chosen` (bool (q, K))."""
    rows = np.broadcast_to(np.arange(len(places))[:, None], places.shape)
    chosen = np.ones(places.shape, dtype=bool) if chosen is None else chosen
    return rows[chosen], places[chosen]


def _matrix(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, ...]) -> sparse.csr_array:
    return sparse.csr_array((np.ones(len(rows), dtype=np.int32), (rows, columns)), shape=shape)


def _with_themselves(places: np.ndarray, size: int) -> sparse.csr_array:
    return _matrix(*_cells(np.column_stack([np.arange(size), places])), (size, size))


def _mutual(near: sparse.csr_array) -> sparse.csr_array:
    """Those of the near ones (N, N) that are near from both sides."""
    return near.multiply(near.T).tocsr()


def _weighted(circles: sparse.csr_array, cosines: np.ndarray) -> sparse.csr_array:
    """V, not yet averaged: exp(cos - 1) in each cell of the circles, divided by the row's sum."""
    rows, columns = circles.nonzero()
    weights = np.exp(cosines - 1.0)
    sums = np.bincount(rows, weights, minlength=circles.shape[0])
    return sparse.csr_array((weights / sums[rows], (rows, columns)), shape=circles.shape)


def _pair_cosines(vectors: np.ndarray, circles: sparse.csr_array) -> np.ndarray:
    """Return the cosine of each stored pair of the sparse matrix, in its order."""
    rows, columns = circles.nonzero()
    cosines = np.empty(len(rows))
    size = max(1, _NUMBERS // max(vectors.shape[1], 1))
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        pairs = (vectors[places[part]].astype(np.float64) for places in (rows, columns))
        cosines[part] = np.einsum("nd,nd->n", *pairs)
    return cosines
