"""Nearest-neighbor search among descriptors by faiss: exact, or in inverted lists for large galleries.

Descriptors are whole numbers of at most 2^24 squared length, so float32 holds all squared distances exactly: they
depend neither on the number of threads nor on the order of the gallery.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

EXACT_UP_TO = 50_000
"""Largest number of descriptors that are searched exactly."""
_LISTS_PER_ROOT = 2  # inverted lists per square root of the number of descriptors
_MOST_LISTS = 2048  # more of them take too long to fill
_PROBED = 16  # inverted lists that are searched
_SAMPLE = 32  # descriptors per list from which the centroids are learned
_ROUNDS = 4  # of k-means


class DescriptorSearch:
    """Searchable descriptors. Inverted lists are filled by `prepare`, or else by the first search.

    Args:
        descriptors: uint8, shape (T, D).
        exact: Search all descriptors; None decides by their number.
    """

    def __init__(self, descriptors: np.ndarray, *, exact: bool | None = None) -> None:
        self._descriptors = descriptors
        self._exact = len(descriptors) <= EXACT_UP_TO if exact is None else exact

    def __len__(self) -> int:
        return len(self._descriptors)

    @property
    def descriptors(self) -> np.ndarray:
        """The descriptors, uint8, shape (T, D)."""
        return self._descriptors

    @cached_property
    def _lists(self) -> Any:
        return None if self._exact else _build_lists(self._descriptors)

    def prepare(self) -> None:
        """Do now what the first search would have to do once: seconds for each thousand photographs."""
        _ = self._lists

    def nearest(
        self, queries: np.ndarray, count: int, *, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest descriptors of each query in ascending order of distance.

        Args:
            queries: uint8, shape (n, D).
            count: Number of neighbors.
            allowed: Descriptors that may be found, bool, shape (T,); None for all.

        Returns:
            Squared distances, int64, shape (n, count), and positions, int64; the largest int64 and -1 pad them where
            fewer are found.
        """
        import faiss

        missing = np.full((len(queries), count), np.iinfo(np.int64).max), np.full((len(queries), count), -1)
        if not len(queries) or not len(self) or count < 1:
            return missing
        floats = queries.astype(np.float32)
        if self._lists is not None:
            options: dict[str, Any] = {"nprobe": _PROBED}
            if allowed is not None:
                options["sel"] = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))  # type: ignore[call-arg, arg-type]
            # pytorch-metric-learning loads faiss.contrib.torch_utils, whose `search` has no `params`.
            search = getattr(self._lists, "search_numpy", self._lists.search)
            distances, places = search(floats, count, params=faiss.SearchParametersIVF(**options))
        else:
            rows = np.arange(len(self)) if allowed is None else np.flatnonzero(allowed)
            if not len(rows):
                return missing
            gallery = self._descriptors[rows].astype(np.float32)
            distances, found = faiss.knn(floats, gallery, min(count, len(rows)))
            places = np.append(rows, -1)[found]
        return _padded(distances, places, *missing)


def merge_nearest(
    parts: list[tuple[np.ndarray, np.ndarray]], sizes: list[int], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest descriptors of several searches as if the galleries were one behind another.

    Args:
        parts: Results of `DescriptorSearch.nearest`.
        sizes: Number of descriptors of each gallery.
        count: Number of neighbors.
    """
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *sizes[:-1]])
    distances = np.concatenate([part[0] for part in parts], axis=1)
    places = np.concatenate(
        [np.where(part[1] < 0, -1, part[1] + start) for part, start in zip(parts, starts, strict=True)], axis=1
    )
    order = np.argsort(distances, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(places, order, axis=1)


def _padded(
    distances: np.ndarray, places: np.ndarray, no_distances: np.ndarray, no_places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    there = places >= 0
    width = places.shape[1]
    no_distances[:, :width][there] = np.rint(distances[there]).astype(np.int64)
    no_places[:, :width][there] = places[there]
    return no_distances, no_places


def _build_lists(descriptors: np.ndarray) -> Any:
    import faiss

    size = descriptors.shape[1]
    centroids = _learn_centroids(descriptors)
    coarse = faiss.IndexFlatL2(size)
    coarse.add(centroids)
    kind, metric = faiss.ScalarQuantizer.QT_8bit_direct, faiss.METRIC_L2
    index = faiss.IndexIVFScalarQuantizer(coarse, size, len(centroids), kind, metric, False)
    index.train(centroids)
    for start in range(0, len(descriptors), EXACT_UP_TO):
        index.add(descriptors[start : start + EXACT_UP_TO].astype(np.float32))
    return index


def _learn_centroids(descriptors: np.ndarray) -> np.ndarray:
    """Return centroids of whole numbers, float32, by k-means: the same on every machine."""
    import faiss

    count = min(max(1, round(_LISTS_PER_ROOT * len(descriptors) ** 0.5)), _MOST_LISTS)
    sampled = np.random.default_rng(0).permutation(len(descriptors))[: _SAMPLE * count]
    sample = descriptors[sampled].astype(np.float32)
    centroids = sample[:count].copy()
    for _ in range(_ROUNDS):
        labels = faiss.knn(sample, centroids, 1)[1][:, 0]
        order = np.argsort(labels, kind="stable")
        found, starts = np.unique(labels[order], return_index=True)
        sums = np.add.reduceat(sample[order].astype(np.int64), starts, axis=0)
        sizes = np.diff([*starts, len(order)])[:, None]
        centroids[found] = (sums + sizes // 2) // sizes
    return centroids
