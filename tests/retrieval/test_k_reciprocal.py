import math
from functools import cache

import numpy as np
import pytest

from whale_ray.retrieval.search.gallery_index import GalleryIndex, normalize_rows
from whale_ray.retrieval.search.k_reciprocal import KReciprocalReranker
from whale_ray.retrieval.search.retrieval_settings import Rerank


def naive_scores(query, vectors, options):
    """The scores of one query, set by set as the paper writes them, the gallery in its own order."""
    images = range(len(vectors))

    def cosine(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True))

    table = [[cosine(a, b) for b in vectors] for a in vectors]
    asked = [cosine(query, b) for b in vectors]
    half = max(1, options.k1 // 2)

    def near(row, besides=None):
        return sorted((i for i in images if i != besides), key=lambda i: (-round(row[i], 6), i))

    @cache
    def mutual(x, k):
        """R(x, k) of a gallery image."""
        return {x} | {y for y in near(table[x], x)[:k] if x in near(table[y], y)[:k]}

    def mutual_of_query(k):
        found = set()
        for y in near(asked)[:k]:
            others = [round(table[y][z], 6) for z in near(table[y], y)]
            if len(others) < k or round(asked[y], 6) >= others[k - 1]:
                found.add(y)
        return found

    def widened(circle):
        halves = (mutual(y, half) for y in circle)
        return circle.union(*(part for part in halves if 3 * len(circle & part) >= 2 * len(part)))

    def encoded(circle, row):
        weights = {y: math.exp(row[y] - 1) for y in widened(circle)}
        return {y: weight / sum(weights.values()) for y, weight in weights.items()}

    def averaged(own, row, besides=None):
        parts = [own] + [gallery[y] for y in near(row, besides)[: options.k2 - 1]]
        return {y: sum(part.get(y, 0.0) for part in parts) / len(parts) for y in set().union(*parts)}

    gallery = [encoded(mutual(x, options.k1), table[x]) for x in images]
    averages = [averaged(gallery[x], table[x], x) for x in images]
    mine = averaged(encoded(mutual_of_query(options.k1), asked), asked)
    scores = []
    for x in images:
        keys = mine.keys() | averages[x].keys()
        pairs = [(mine.get(y, 0.0), averages[x].get(y, 0.0)) for y in keys]
        jaccard = sum(min(pair) for pair in pairs) / sum(max(pair) for pair in pairs)
        scores.append((1 - options.weight) * jaccard + options.weight * asked[x])
    return scores


def draw(images, *, individuals, size=6, seed=0, spread=0.6):
    random = np.random.default_rng(seed)
    members = np.sort(random.integers(0, individuals, images))
    vectors = random.normal(size=(individuals, size))[members] + spread * random.normal(size=(images, size))
    return vectors, np.array([f"w_{member:02d}" for member in members])


def score(queries, index, options):
    vectors = normalize_rows(queries).astype(np.float64)
    return KReciprocalReranker(index, options)(vectors, vectors @ index.vectors.astype(np.float64).T)


OPTIONS = [Rerank(5, 3, 0.3), Rerank(20, 6, 0.3), Rerank(8, 1, 0.1), Rerank(1, 4, 0.5), Rerank(3, 9, 0.2)]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_scores_equal_a_naive_computation_with_sets(options):
    vectors, labels = draw(45, individuals=7)
    queries, _ = draw(5, individuals=7, seed=0, spread=0.7)
    index = GalleryIndex(vectors, labels)
    gallery = index.vectors.astype(np.float64).tolist()
    expected = [naive_scores(query, gallery, options) for query in normalize_rows(queries).astype(np.float64).tolist()]
    found = score(queries, index, options)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert (found > options.weight).any(), "no circle overlaps: the example tries nothing"


@pytest.mark.parametrize("images", [1, 2, 5])
def test_neighborhoods_larger_than_the_gallery_contain_all_of_it(images):
    vectors, labels = draw(images, individuals=2)
    queries, _ = draw(3, individuals=2, seed=4)
    index = GalleryIndex(vectors, labels)
    gallery = index.vectors.astype(np.float64).tolist()
    expected = [
        naive_scores(query, gallery, Rerank(20, 6, 0.3)) for query in normalize_rows(queries).astype(float).tolist()
    ]
    np.testing.assert_allclose(score(queries, index, Rerank(20, 6, 0.3)), expected, atol=1e-9)


def test_equal_vectors_rank_in_gallery_order():
    vectors = np.repeat(np.eye(3), 4, axis=0)
    index = GalleryIndex(vectors, np.array(list("aaaabbbbcccc")))
    query = np.array([[1.0, 1.0, 0.2]])
    expected = naive_scores(
        normalize_rows(query)[0].astype(float).tolist(), index.vectors.astype(float).tolist(), Rerank(2, 2)
    )
    np.testing.assert_allclose(score(query, index, Rerank(2, 2)), [expected], atol=1e-9)


def test_a_query_has_the_same_score_alone_and_in_a_batch():
    vectors, labels = draw(200, individuals=20)
    queries, _ = draw(150, individuals=20, seed=3)
    index, options = GalleryIndex(vectors, labels), Rerank(8, 4, 0.3)
    together = score(queries, index, options)
    for place in (0, 63, 64, 149):
        np.testing.assert_allclose(score(queries[place : place + 1], index, options)[0], together[place], atol=1e-12)


def test_a_near_image_of_another_neighborhood_falls_behind():
    """The nearest image has a close circle of its own, which does not know the query; the next are mutual."""
    angles = np.radians([10.0, -11.0, -12.0, -12.5, 17.0, 18.0, 19.0])
    index = GalleryIndex(np.stack([np.cos(angles), np.sin(angles)], axis=1), np.array(list("zaaazzz")))
    query = np.array([[1.0, 0.0]])
    cosines = query @ index.vectors.astype(np.float64).T
    assert index.names[index.codes[cosines[0].argmax()]] == "z"
    found = score(query, index, Rerank(3, 1, 0.1))
    assert index.names[index.codes[found[0].argmax()]] == "a"


def test_an_empty_gallery_has_no_scores():
    empty = GalleryIndex(np.zeros((0, 3)), np.array([], dtype=str))
    assert score(np.ones((2, 3)), empty, Rerank()).shape == (2, 0)
