import math

import numpy as np
import pytest

from whale_ray.retrieval.search.gallery_index import GalleryIndex, normalize_rows
from whale_ray.retrieval.search.query_expansion import augment_gallery, expand_queries, find_others


def plain_python_sum(vector, others, count):
    """The unit sum of a vector and its `count` nearest others, each times its cosine cubed, nothing below 0."""
    cosines = [sum(a * b for a, b in zip(vector, other, strict=True)) for other in others]
    nearest = sorted(range(len(others)), key=lambda place: -cosines[place])[:count]
    total = list(vector)
    for place in nearest:
        total = [a + max(cosines[place], 0.0) ** 3 * b for a, b in zip(total, others[place], strict=True)]
    length = math.sqrt(sum(a * a for a in total))
    return [a / length for a in total]


def draw(images, size=5, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=(images, size)), np.array([f"w_{code:02d}" for code in random.integers(0, 9, images)])


@pytest.mark.parametrize("count", [1, 3, 400])
def test_a_query_is_the_weighted_sum_of_itself_and_its_nearest_gallery_vectors(count):
    vectors, labels = draw(30)
    queries, _ = draw(6, seed=1)
    found = expand_queries(normalize_rows(queries), GalleryIndex(vectors, labels), count)
    gallery = normalize_rows(vectors).astype(float).tolist()
    expected = [plain_python_sum(query, gallery, count) for query in normalize_rows(queries).astype(float).tolist()]
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert not np.allclose(found, normalize_rows(queries), atol=1e-2)


def test_a_query_is_expanded_the_same_alone_and_in_a_batch():
    vectors, labels = draw(30)
    queries = normalize_rows(draw(6, seed=1)[0])
    index = GalleryIndex(vectors, labels)
    alone = [expand_queries(query[None], index, 3)[0].tolist() for query in queries]
    assert expand_queries(queries, index, 3).tolist() == alone


@pytest.mark.parametrize("count", [1, 3, 400])
def test_each_gallery_vector_is_the_weighted_sum_of_itself_and_its_nearest_others_and_keeps_row_and_name(count):
    vectors, labels = draw(30)
    index = augment_gallery(GalleryIndex(vectors, labels), count)
    gallery = normalize_rows(vectors).astype(float).tolist()
    for place, row in enumerate(index.rows):
        others = gallery[:row] + gallery[row + 1 :]
        np.testing.assert_allclose(index.vectors[place], plain_python_sum(gallery[row], others, count), atol=1e-3)
        assert index.names[index.codes[place]] == labels[row]


def test_an_image_is_never_its_own_neighbor_even_among_equal_vectors():
    index = GalleryIndex(np.tile([1.0, 0.0], (9, 1)), np.array(list("bbbaaaccc")))
    places, cosines = find_others(index, 3)
    assert (places != np.arange(9)[:, None]).all()
    assert places[:5, 0].tolist() == [1, 0, 0, 0, 0]
    assert cosines.tolist() == [[1.0, 1.0, 1.0]] * 9


def test_gallery_vectors_with_negative_cosine_add_nothing():
    index = GalleryIndex(np.array([[-1.0, 0.1], [0.6, -0.8]]), np.array(["a", "b"]))
    opposite = GalleryIndex(-np.eye(2), np.array(["a", "b"]))
    assert expand_queries(np.array([[0.0, 1.0]], np.float32), opposite, 2).tolist() == [[0.0, 1.0]]
    np.testing.assert_allclose(augment_gallery(index, 1).vectors, index.vectors, atol=1e-3)


def test_zero_neighbors_an_empty_gallery_and_a_single_image_expand_nothing():
    queries = np.array([[0.6, 0.8]])
    alone, empty = GalleryIndex(queries, np.array(["a"])), GalleryIndex(np.zeros((0, 2)), np.array([], dtype=str))
    assert expand_queries(queries, alone, 0) is queries
    assert expand_queries(queries, empty, 3) is queries
    assert augment_gallery(alone, 5) is alone
    assert len(augment_gallery(empty, 5)) == 0
