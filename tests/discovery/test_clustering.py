"""Clustering: average linkage under constraints, against an independent computation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import sparse

from whale_ray.discovery.clustering import cluster_photographs
from whale_ray.discovery.constraints import Constraints, LinkedPhotographs, link_photographs
from whale_ray.discovery.pair_probabilities import PairProbabilities

CONSTRAINTS = Constraints(
    same=((0, 9), (3, 4), (9, 11)), different=((0, 1), (4, 8), (2, 5)), names={6: "a", 7: "b", 12: "a"}
)


def random_matrix(count: int, seed: int) -> np.ndarray:
    """Return symmetric probabilities of `count` photographs, float32, zero diagonal."""
    matrix = np.triu(np.random.default_rng(seed).random((count, count)) ** 2, 1).astype(np.float32)
    return matrix + matrix.T


def naive_clusters(matrix: np.ndarray, threshold: float, links: LinkedPhotographs) -> set[frozenset[int]]:
    """Return the clusters of average linkage by trying every pair of clusters again and again."""
    clusters = [set(np.flatnonzero(links.component == part).tolist()) for part in np.unique(links.component)]

    def mean(one: set[int], other: set[int]) -> float:
        if any(links.are_different(row, column) for row in one for column in other):
            return -1.0
        return float(np.mean([matrix[row, column] for row in one for column in other]))

    while len(clusters) > 1:
        best, one, other = max(
            (mean(clusters[one], clusters[other]), one, other)
            for one, other in itertools.combinations(range(len(clusters)), 2)
        )
        if best < threshold:
            break
        clusters[one] |= clusters.pop(other)
    return {frozenset(cluster) for cluster in clusters}


def as_sets(labels: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in np.unique(labels)}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [0.2, 0.4, 0.7])
@pytest.mark.parametrize("constraints", [Constraints(), CONSTRAINTS], ids=["free", "constrained"])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array], ids=["dense", "sparse"])
def test_clusters_are_those_of_a_naive_average_linkage(
    seed: int, threshold: float, constraints: Constraints, form: type
) -> None:
    matrix = random_matrix(14, seed)
    found = cluster_photographs(PairProbabilities(form(matrix)), threshold=threshold, constraints=constraints)
    assert as_sets(found) == naive_clusters(matrix, threshold, link_photographs(constraints, 14))
    assert found.dtype == np.int64
    firsts = np.unique(found, return_index=True)[1]
    assert np.all(np.diff(firsts) > 0)


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array], ids=["dense", "sparse"])
def test_photographs_of_one_probability_keep_their_constraints(form: type) -> None:
    matrix = np.full((40, 40), 0.9, dtype=np.float32)
    np.fill_diagonal(matrix, 0.0)
    probabilities = PairProbabilities(form(matrix))
    assert set(cluster_photographs(probabilities, threshold=0.5)) == {0}
    apart = cluster_photographs(probabilities, threshold=0.5, constraints=Constraints(different=((3, 30),)))
    assert apart[3] != apart[30]
    assert apart.max() == 1


@pytest.mark.parametrize("count", [0, 1])
def test_no_photograph_and_one_photograph_are_clustered(count: int) -> None:
    probabilities = PairProbabilities(np.zeros((count, count), dtype=np.float32))
    assert cluster_photographs(probabilities, threshold=0.5).tolist() == [0] * count
