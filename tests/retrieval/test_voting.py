import math
from collections import defaultdict

import numpy as np
import pytest

from whale_ray.errors import InputError
from whale_ray.retrieval.search.gallery_index import normalize_rows
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting
from whale_ray.retrieval.search.searcher import GallerySearcher
from whale_ray.retrieval.search.voting import VOTES, new_individual_rank

# A query along the first axis: the cosine to (c, sqrt(1 - c²)) is c.
QUERY = np.array([[1.0, 0.0]])


def gallery(*rows):
    vectors = np.array([[cosine, math.sqrt(1.0 - cosine**2)] for cosine, _ in rows])
    return GallerySearcher(vectors, np.array([name for _, name in rows]))


def rank_queries(queries, matcher, **options):
    return matcher.rank(queries, RetrievalSetting(**options))


def names(matcher, ranking):
    return matcher.index.names[ranking.individuals[0]].tolist()


FOUR = gallery((0.9, "a"), (0.8, "b"), (0.7, "b"), (0.6, "c"), (0.5, "c"), (0.4, "c"), (0.1, "d"))


@pytest.mark.parametrize(("neighbours", "expected"), [(1, "abcd"), (3, "bacd"), (5, "bcad"), (6, "cbad"), (99, "cbad")])
def test_majority_counts_and_the_larger_cosine_breaks_ties(neighbours, expected):
    ranking = rank_queries(QUERY, FOUR, vote="majority", neighbours=neighbours)
    assert "".join(names(FOUR, ranking)) == expected


def test_nearest_orders_individuals_by_their_largest_cosine():
    ranking = rank_queries(QUERY, FOUR)
    assert names(FOUR, ranking) == ["a", "b", "c", "d"]
    assert ranking.cosines[0].tolist() == pytest.approx([0.9, 0.8, 0.6, 0.1], abs=1e-3)
    assert ranking.images[0].tolist() == [0, 1, 3, 6]


def test_a_vote_keeps_cosine_and_image_with_their_individual():
    ranking = rank_queries(QUERY, FOUR, vote="majority", neighbours=6)
    assert ranking.cosines[0].tolist() == pytest.approx([0.6, 0.8, 0.9, 0.1], abs=1e-3)
    assert ranking.images[0].tolist() == [3, 1, 0, 6]


def test_softmax_prefers_many_near_images_to_one_nearer():
    matcher = gallery((0.80, "a"), (0.79, "b"), (0.78, "b"), (0.1, "c"))
    assert names(matcher, rank_queries(QUERY, matcher, vote="softmax", neighbours=3)) == ["b", "a", "c"]
    assert names(matcher, rank_queries(QUERY, matcher, vote="softmax", neighbours=3, temperature=0.001)) == [
        "a",
        "b",
        "c",
    ]


def test_softmax_orders_distant_individuals_if_the_exponential_underflows():
    matcher = gallery((0.9, "z"), (0.3, "y"), (0.2, "x"), (0.1, "w"))
    ranking = rank_queries(QUERY, matcher, vote="softmax", neighbours=4, temperature=0.0005)
    assert names(matcher, ranking) == ["z", "y", "x", "w"]


@pytest.mark.parametrize("vote", VOTES)
def test_equal_individuals_rank_by_name(vote):
    matcher = gallery((0.5, "c"), (0.5, "a"), (0.5, "d"), (0.5, "b"), (0.9, "z"))
    assert names(matcher, rank_queries(QUERY, matcher, vote=vote, neighbours=4)) == ["z", "a", "b", "c", "d"]


def test_a_class_mean_is_the_mean_of_unit_vectors():
    """a: (1, 0) and (0, 1), the first written ten times as long; their raw mean would point at the query."""
    matcher = GallerySearcher(np.array([[10.0, 0.0], [0.0, 1.0], [0.9, 0.3]]), np.array(["a", "a", "b"]))
    ranking = matcher.rank(QUERY, RetrievalSetting("centroid"))
    assert names(matcher, ranking) == ["b", "a"]
    assert ranking.cosines[0].tolist() == pytest.approx([0.9 / math.hypot(0.9, 0.3), 1.0], abs=1e-3)
    np.testing.assert_allclose(matcher.index.centroids.vectors[0], [math.sqrt(0.5), math.sqrt(0.5)], atol=1e-6)


def test_a_class_mean_is_robust_to_one_misleading_image():
    matcher = gallery((0.95, "a"), (-0.5, "a"), (0.9, "b"), (0.85, "b"))
    assert names(matcher, matcher.rank(QUERY, RetrievalSetting())) == ["a", "b"]
    assert names(matcher, matcher.rank(QUERY, RetrievalSetting("centroid"))) == ["b", "a"]


def test_equal_sums_rank_by_name_when_the_cosines_differ_in_order_only():
    matcher = gallery((0.7, "b"), (0.6, "a"), (0.7, "a"), (0.6, "b"))
    assert names(matcher, rank_queries(QUERY, matcher, vote="softmax", neighbours=4)) == ["a", "b"]


def test_more_neighbors_than_images_uses_all_images():
    matcher = gallery((0.9, "a"), (0.5, "b"), (0.4, "b"))
    for vote in ("majority", "softmax"):
        all_of_them = rank_queries(QUERY, matcher, vote=vote, neighbours=3).individuals
        assert rank_queries(QUERY, matcher, vote=vote, neighbours=1000).individuals.tolist() == all_of_them.tolist()


def plain_python_ranking(cosines, labels, *, vote, k, temperature):
    order = sorted(range(len(labels)), key=lambda place: (-cosines[place], labels[place], place))
    best, votes = {}, defaultdict(float)
    for place in order:
        best.setdefault(labels[place], cosines[place])
    for place in order[:k]:
        votes[labels[place]] += 1.0 if vote == "majority" else math.exp(cosines[place] / temperature)
    by_vote = {
        "majority": lambda name: (-votes[name], -best[name], name),
        "softmax": lambda name: (-votes[name], name),
    }
    first = sorted(votes, key=by_vote[vote])
    return first + sorted(best.keys() - set(first), key=lambda name: (-best[name], name))


@pytest.mark.parametrize("vote", ["majority", "softmax"])
@pytest.mark.parametrize("neighbours", [1, 2, 7, 60, 200])
def test_votes_agree_with_plain_python_on_random_vectors(vote, neighbours):
    random = np.random.default_rng(neighbours)
    vectors, queries = random.normal(size=(150, 5)), random.normal(size=(12, 5))
    labels = np.array([f"w_{label:02d}" for label in random.integers(0, 70, 150)])
    matcher = GallerySearcher(vectors, labels)
    ranking = rank_queries(queries, matcher, vote=vote, neighbours=neighbours, temperature=0.1)
    cosines = np.round(normalize_rows(queries).astype(np.float64) @ normalize_rows(vectors).astype(np.float64).T, 6)
    for row, found in zip(cosines, ranking.individuals, strict=True):
        expected = plain_python_ranking(row.tolist(), labels.tolist(), vote=vote, k=neighbours, temperature=0.1)
        assert matcher.index.names[found[found >= 0]].tolist()[:50] == expected[:50]


def test_an_empty_gallery_has_an_empty_ranking():
    empty = GallerySearcher(np.zeros((0, 2)), np.array([], dtype=str))
    for vote in VOTES:
        assert rank_queries(QUERY, empty, vote=vote, neighbours=3).individuals.shape == (1, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vote": "nearst"}, "a vote is one of nearest, majority, softmax, centroid, but got 'nearst'"),
        ({"vote": "majority"}, "`neighbours >= 1` must hold for the vote majority, but got None"),
        ({"vote": "softmax", "neighbours": 0}, "but got 0"),
        ({"vote": "softmax", "neighbours": 3, "temperature": 0.0}, "`temperature > 0` must hold"),
    ],
)
def test_an_invalid_vote_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        rank_queries(QUERY, FOUR, **options)


def test_the_unknown_individual_enters_before_the_first_cosine_below_the_threshold():
    cosines = np.array([[0.9, 0.4, 0.8], [0.4, 0.9, 0.9], [0.9, 0.9, 0.9], [0.9, np.nan, np.nan]])
    assert new_individual_rank(cosines, 0.5).tolist() == [2, 1, 0, 0]
    assert new_individual_rank(cosines, 0.9).tolist() == [2, 1, 0, 0]
    assert new_individual_rank(cosines, None).tolist() == [0, 0, 0, 0]
    assert new_individual_rank(np.zeros((2, 0)), 0.5).tolist() == [0, 0]
