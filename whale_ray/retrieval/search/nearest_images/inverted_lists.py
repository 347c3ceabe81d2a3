"""Inverted lists: the gallery by nearest centroid, in few bits; a search looks at the lists nearest to the query.

Jégou, Douze and Schmid, "Product quantization for nearest neighbor search", TPAMI 2011; André et al., "Quicker ADC",
TPAMI 2019 (faiss). The lists propose candidates, whose cosines are then computed exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np

LISTS_FROM = 50_000
"""Gallery images from which lists pay (docs/experiments/retrieval.md)."""
RECALL = 0.995
"""Share of the ten nearest images that the lists must find for gallery images, searched when they are made."""
_CANDIDATES, _MORE = 256, 1024  # of each query, at least: their cosines are computed exactly
_DIMENSIONS = 256  # of the vectors in the lists, at most; each has 2 bits
_SAMPLE = 64  # vectors per list from which centroids and codes are learned
_TRIED = 256  # gallery images that are searched to choose the number of lists
_NEAREST = 10
_ROWS = 50_000  # added at once


class InvertedLists:
    """Inverted lists of a gallery, and the number of lists that a search looks at.

    Vectors are projected to the 256 directions in which they differ most, rotated at random and held in 2 bits per
    dimension: 72 bytes for each, of 2,048 in float32.

    Args:
        vectors: Unit vectors, float32, shape (N, D).

    Attributes:
        recall: Measured share of the ten nearest images of gallery images that are found; 0 to 1.
    """

    def __init__(self, vectors: np.ndarray) -> None:
        random = np.random.default_rng(0)
        lists = max(1, round(len(vectors) ** 0.5))
        sample = vectors[random.permutation(len(vectors))[: _SAMPLE * lists]]
        self._projection = _main_directions(sample, random)
        self._index, self._count = self._fill(vectors, sample, lists), _CANDIDATES
        self.recall = self._choose_probes(vectors)

    @property
    def nbytes(self) -> int:
        """Memory of the lists in bytes."""
        return int(self._index.ntotal) * (int(self._index.code_size) + 8) + self._projection.nbytes

    def candidates(self, queries: np.ndarray, vectors: np.ndarray, count: int) -> np.ndarray:
        """Return positions of images that may be the nearest, int64, shape (Q, at least `count`); -1 for none.

        Args:
            queries: Unit vectors, float32, shape (Q, D).
            vectors: The gallery; unused, since the lists have all its images.
            count: Candidates per query.
        """
        _, places = self._index.search(queries @ self._projection, max(count, self._count))
        return np.asarray(places)

    def _fill(self, vectors: np.ndarray, sample: np.ndarray, lists: int) -> Any:
        import faiss

        size = self._projection.shape[1]
        index: Any = faiss.index_factory(size, f"IVF{lists},PQ{size // 2}x4fs", faiss.METRIC_INNER_PRODUCT)
        index.cp.min_points_per_centroid = 1  # of a small gallery, in tests
        index.train(sample @ self._projection)
        for start in range(0, len(vectors), _ROWS):
            index.add(vectors[start : start + _ROWS] @ self._projection)
        return index

    def _choose_probes(self, vectors: np.ndarray) -> float:
        """Set the smallest number of lists, a power of two or all, that reaches `RECALL`, and return the recall.

        If all lists miss too many images, there are more candidates.
        """
        import faiss

        queries = vectors[np.random.default_rng(1).permutation(len(vectors))[:_TRIED]]
        # An image finds itself at once: it does not count.
        nearest = faiss.knn(queries, vectors, _NEAREST + 1, metric=faiss.METRIC_INNER_PRODUCT)[1][:, 1:]
        lists, recall = self._index.nlist, 0.0
        powers = [2**power for power in range(int(lists).bit_length())]
        for probes, count in [*((one, _CANDIDATES) for one in (*powers, lists)), (lists, _MORE)]:
            self._index.nprobe, self._count = probes, count
            found = self.candidates(queries, vectors, count)
            recall = float(np.mean([np.isin(*pair).mean() for pair in zip(nearest, found, strict=True)]))
            if recall >= RECALL:
                break
        return recall


class MovedLists:
    """Inverted lists of a gallery from which images have gone or come since; shares the lists.

    Args:
        lists: Lists of the earlier gallery.
        places: New position of each image of the earlier gallery, -1 for none, int64.
        added: Positions of images that are in no list; all of them are compared.
    """

    def __init__(self, lists: InvertedLists, places: np.ndarray, added: np.ndarray) -> None:
        self._lists, self._places, self._added = lists, np.append(places, -1), added

    def candidates(self, queries: np.ndarray, vectors: np.ndarray, count: int) -> np.ndarray:
        """Return positions as `InvertedLists.candidates` does; up to `count` of the added images come on top.

        Args:
            queries: Unit vectors, float32, shape (Q, D).
            vectors: Unit vectors of the present gallery, float32, shape (N, D).
            count: Candidates per query.
        """
        found = self._places[self._lists.candidates(queries, vectors, count)]
        if len(self._added) <= count:
            return np.concatenate([found, np.tile(self._added, (len(queries), 1))], axis=1)
        cosines = queries @ vectors[self._added].T
        nearest = np.argpartition(-cosines, count, axis=1)[:, :count]
        return np.concatenate([found, self._added[nearest]], axis=1)


def make_lists(vectors: np.ndarray) -> InvertedLists | None:
    """Return inverted lists of a gallery; None if they find too few of the nearest images: exact search is then left.

    Args:
        vectors: Unit vectors, float32, shape (N, D).
    """
    lists = InvertedLists(vectors)
    return lists if lists.recall >= RECALL else None


def _main_directions(sample: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return the projection to the directions of the largest squares, rotated at random, float32, shape (D, d).

    The mean stays: without it, the order of inner products would change.
    """
    size = min(_DIMENSIONS, sample.shape[1]) // 2 * 2
    _, directions = np.linalg.eigh(sample.T.astype(np.float64) @ sample)
    rotation = np.linalg.qr(random.standard_normal((size, size)))[0]
    return np.asarray(directions[:, ::-1][:, :size] @ rotation, dtype=np.float32)
