"""Clustering of photographs into individuals: average linkage of pair probabilities under constraints."""

from __future__ import annotations

import heapq

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from whale_ray.discovery.constraints import Constraints, LinkedPhotographs, link_photographs
from whale_ray.discovery.pair_probabilities import PairProbabilities

_APART = 1e9  # distance of photographs that must differ: above 1 in every average with at most 5,000 photographs
_NEAREST = 1e-6  # smallest distance of photographs that are not linked: linked ones have 0 and are joined first


def cluster_photographs(
    probabilities: PairProbabilities, *, threshold: float, constraints: Constraints | None = None
) -> np.ndarray:
    """Return the cluster of each photograph, int64, shape (N,), numbered by their first photographs from 0.

    Linked photographs start as one cluster. Then the two clusters with the largest mean pair probability are joined
    (average linkage) as long as that mean is at least `threshold`; clusters that must stay apart never are. Equal
    input gives equal output. Up to `DENSE_UP_TO` photographs the memory is O(N²); above it, pairs that are not
    candidates count as probability 0.

    Args:
        probabilities: Pair probabilities of N photographs.
        threshold: Mean probability, 0 to 1; `learn_threshold` learns it.
        constraints: Answers and names; contradictions have the effect that `link_photographs` describes.
    """
    links = link_photographs(constraints or Constraints(), len(probabilities))
    if len(probabilities) < 2:
        return np.zeros(len(probabilities), dtype=np.int64)
    if isinstance(probabilities.matrix, np.ndarray):
        return cut_tree(build_tree(probabilities.matrix, links), threshold)
    return _join_candidates(probabilities, threshold, links)


def build_tree(matrix: np.ndarray, links: LinkedPhotographs) -> np.ndarray:
    """Return SciPy's linkage of all photographs, float64, shape (N - 1, 4), its heights being 1 - mean probability.

    Args:
        matrix: Pair probabilities, float32, shape (N, N).
        links: Links that hold.
    """
    distances = np.maximum(1.0 - np.asarray(matrix, dtype=np.float32), np.float32(_NEAREST))
    members = _members(links.component)
    for one, other in links.apart:
        distances[np.ix_(members[one], members[other])] = _APART
        distances[np.ix_(members[other], members[one])] = _APART
    _separate_names(distances, links)
    for rows in members:
        if len(rows) > 1:
            distances[np.ix_(rows, rows)] = 0.0
    np.fill_diagonal(distances, 0.0)
    return np.asarray(linkage(squareform(distances, checks=False), "average"))


def cut_tree(tree: np.ndarray, threshold: float) -> np.ndarray:
    """Return the clusters of a linkage whose mean probability reaches a threshold, int64, shape (N,).

    Args:
        tree: Linkage of `build_tree`.
        threshold: Mean probability, 0 to 1.
    """
    return number_by_first(fcluster(tree, 1.0 - threshold, criterion="distance"))


def number_by_first(labels: np.ndarray) -> np.ndarray:
    """Return labels renumbered 0, 1, … in the order of their first photographs, int64.

    >>> number_by_first(np.array([7, 3, 7, 5])).tolist()
    [0, 1, 0, 2]
    """
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[inverse], dtype=np.int64)


def _members(component: np.ndarray) -> list[np.ndarray]:
    """Return the photographs of each component."""
    order = np.argsort(component, kind="stable")
    return np.split(order, np.cumsum(np.bincount(component))[:-1])


def _separate_names(distances: np.ndarray, links: LinkedPhotographs) -> None:
    """Set the distances between photographs of two names, in place."""
    names = np.array([links.names.get(int(part), "") for part in links.component])
    named = np.flatnonzero([int(part) in links.names for part in links.component])
    block = distances[np.ix_(named, named)]
    block[names[named][:, None] != names[named][None, :]] = _APART
    distances[np.ix_(named, named)] = block


class _Clusters:
    """Clusters with the sums of their pair probabilities, joined from the largest mean down."""

    def __init__(self, probabilities: PairProbabilities, links: LinkedPhotographs) -> None:
        self.size = np.bincount(links.component).tolist()
        self.sums: list[dict[int, float]] = [{} for _ in self.size]
        self.apart: list[set[int]] = [set() for _ in self.size]
        self.names = dict(links.names)
        self.parent = np.arange(len(self.size))
        for one, other in links.apart:
            self.apart[one].add(other)
            self.apart[other].add(one)
        first, second, values = probabilities.candidates()
        for one, other, value in zip(links.component[first], links.component[second], values.tolist(), strict=True):
            if one != other:
                self.sums[one][int(other)] = self.sums[one].get(int(other), 0.0) + value
                self.sums[other][int(one)] = self.sums[one][int(other)]

    def mean(self, one: int, other: int) -> float:
        """Return the mean probability of two clusters; -1 if they must stay apart."""
        names = {self.names[part] for part in (one, other) if part in self.names}
        if other in self.apart[one] or len(names) > 1:
            return -1.0
        return self.sums[one].get(other, 0.0) / float(self.size[one] * self.size[other])

    def join(self, kept: int, joined: int) -> None:
        """Move everything of one cluster to another."""
        self.parent[joined] = kept
        self.size[kept] += self.size[joined]
        if joined in self.names:
            self.names[kept] = self.names.pop(joined)
        for other, total in self.sums[joined].items():
            del self.sums[other][joined]
            if other != kept:
                self.sums[kept][other] = self.sums[kept].get(other, 0.0) + total
                self.sums[other][kept] = self.sums[kept][other]
        for other in self.apart[joined]:
            self.apart[other].discard(joined)
            self.apart[other].add(kept)
            self.apart[kept].add(other)
        self.sums[joined], self.apart[joined] = {}, set()


def _join_candidates(probabilities: PairProbabilities, threshold: float, links: LinkedPhotographs) -> np.ndarray:
    """Return the clusters of average linkage where pairs that are not candidates have probability 0."""
    clusters = _Clusters(probabilities, links)
    heap = [
        (-clusters.mean(one, other), one, other)
        for one, others in enumerate(clusters.sums)
        for other in others
        if one < other
    ]
    heapq.heapify(heap)
    while heap:
        height, one, other = heapq.heappop(heap)
        if -height < threshold:
            break
        if other not in clusters.sums[one] or -clusters.mean(one, other) != height:
            continue
        clusters.join(one, other)
        for third in clusters.sums[one]:
            mean = clusters.mean(one, third)
            if mean >= threshold:
                heapq.heappush(heap, (-mean, min(one, third), max(one, third)))
    root = clusters.parent
    while (root[root] != root).any():
        root = root[root]
    return number_by_first(root[links.component])
