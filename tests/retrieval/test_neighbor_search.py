import numpy as np
import pytest

from whale_ray.retrieval.search.gallery_index import GalleryIndex, normalize_rows
from whale_ray.retrieval.search.nearest_images.matrix_product import nearest_candidates
from whale_ray.retrieval.search.neighbor_search import find_by_centroid, find_neighbors


def reference(queries, gallery, labels, *, images, individuals):
    """Full sorts in float64: (rows of images, names of individuals, their largest cosine) of each query."""
    cosines = np.round(normalize_rows(queries).astype(np.float64) @ normalize_rows(gallery).astype(np.float64).T, 6)
    answers = []
    for row in cosines:
        order = sorted(range(len(labels)), key=lambda place: (-row[place], labels[place], place))
        best = {}
        for place in order:
            best.setdefault(labels[place], row[place])
        answers.append((order[:images], list(best)[:individuals], list(best.values())[:individuals]))
    return answers


def draw(images, *, individuals, size, seed=0, spread=1.0):
    random = np.random.default_rng(seed)
    members = random.integers(0, individuals, images)
    vectors = random.normal(size=(individuals, size))[members] + spread * random.normal(size=(images, size))
    return vectors, np.array([f"w_{member:04d}" for member in members])


@pytest.mark.parametrize(("images", "individuals"), [(40, 9), (900, 5), (6000, 900)])
def test_images_and_individuals_are_those_of_a_full_sort(images, individuals):
    gallery, labels = draw(images, individuals=individuals, size=8)
    queries, _ = draw(20, individuals=individuals, size=8, seed=1)
    index = GalleryIndex(gallery, labels)
    found = find_neighbors(normalize_rows(queries), index, individuals=30, neighbours=40)
    expected = reference(queries, gallery, labels, images=40, individuals=30)
    for place, (rows, names, best) in enumerate(expected):
        assert found.indices[place].tolist() == rows
        assert index.names[found.individuals[place, :30]].tolist() == names
        assert found.best_cosines[place, :30].tolist() == pytest.approx(best, abs=1.1e-6)
        assert labels[found.best_indices[place, :30]].tolist() == names
        assert index.names[found.individuals[place][found.columns[place]]].tolist() == labels[rows].tolist()


def test_equal_vectors_rank_by_name_and_then_by_their_order():
    random = np.random.default_rng(0)
    gallery = random.normal(size=(3000, 24))
    labels = np.array([f"w_{name:04d}" for name in random.permutation(3000) // 2])
    same = random.choice(3000, 400, replace=False)
    gallery[same] = gallery[same[0]]
    found = find_neighbors(
        normalize_rows(gallery[same[:1]] + 0.01), GalleryIndex(gallery, labels), individuals=50, neighbours=30
    )
    assert found.indices[0].tolist() == sorted(same, key=lambda row: (labels[row], row))[:30]
    assert len(set(found.cosines[0])) == 1


def test_a_tie_at_the_edge_of_the_candidates_deepens_the_search():
    gallery = np.tile([1.0, 0.0, 0.0], (5000, 1))
    labels = np.array([f"w_{5000 - place:04d}" for place in range(5000)])
    index = GalleryIndex(gallery, labels)
    found = find_neighbors(normalize_rows(np.array([[1.0, 1.0, 0.0]])), index, individuals=3, neighbours=2)
    assert found.indices[0].tolist() == [4999, 4998]
    assert index.names[found.individuals[0]].tolist() == ["w_0001", "w_0002", "w_0003"]


def test_an_individual_with_many_images_does_not_hide_the_others():
    random = np.random.default_rng(0)
    crowd = np.array([1.0, 0.0, 0.0]) + 0.01 * random.normal(size=(4000, 3))
    others = random.normal(size=(60, 3)) - [2.0, 0.0, 0.0]
    labels = np.array(["crowd"] * 4000 + [f"w_{place:02d}" for place in range(60)])
    index = GalleryIndex(np.concatenate([crowd, others]), labels)
    found = find_neighbors(normalize_rows(np.array([[1.0, 0.0, 0.0]])), index, individuals=50, neighbours=1)
    assert len(set(found.individuals[0])) == 50
    assert (found.individuals >= 0).all()


def test_lists_end_where_the_gallery_ends():
    index = GalleryIndex(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), np.array(["w_a", "w_b", "w_a"]))
    found = find_neighbors(normalize_rows(np.array([[1.0, 0.1]])), index, individuals=50, neighbours=99)
    assert found.indices.tolist() == [[0, 2, 1]]
    assert found.individuals.tolist() == [[0, 1]]
    assert found.columns.tolist() == [[0, 0, 1]]


def test_individuals_that_were_not_asked_for_are_absent_unless_an_image_among_the_nearest_shows_them():
    gallery = np.array([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [1.0, 0.3], [0.0, 1.0]])
    index = GalleryIndex(gallery, np.array(["w_a", "w_b", "w_b", "w_c", "w_d"]))
    found = find_neighbors(normalize_rows(np.array([[1.0, 0.0]])), index, individuals=1, neighbours=3)
    assert found.individuals.tolist() == [[0, 1, -1]]
    assert np.isnan(found.best_cosines[0, 2])
    assert found.best_indices[0, 2] == -1


def test_no_gallery_and_no_query_give_empty_lists():
    empty = GalleryIndex(np.zeros((0, 4)), np.array([], dtype=str))
    queries = normalize_rows(np.ones((3, 4)))
    for found in (find_neighbors(queries, empty), find_by_centroid(queries, empty)):
        assert found.individuals.shape == (3, 0)
    assert find_neighbors(
        np.zeros((0, 2), np.float32), GalleryIndex(np.eye(2), np.array(["a", "b"]))
    ).indices.shape == (0, 1)


@pytest.mark.integration
@pytest.mark.parametrize(("images", "individuals"), [(60, 12), (5000, 1500)])
def test_centroids_order_individuals_and_the_nearest_image_gives_the_cosine(images, individuals):
    gallery, labels = draw(images, individuals=individuals, size=6)
    queries, _ = draw(4, individuals=individuals, size=6, seed=1)
    index = GalleryIndex(gallery, labels)
    found = find_by_centroid(normalize_rows(queries), index, individuals=10)
    for place, query in enumerate(normalize_rows(queries)):
        means = {name: normalize_rows(gallery)[labels == name].mean(axis=0) for name in index.names}
        order = sorted(means, key=lambda name: -np.round(query @ means[name] / np.linalg.norm(means[name]), 5))
        assert index.names[found.individuals[place]].tolist()[:10] == order[:10]
        nearest = [(normalize_rows(gallery)[labels == name] @ query).max() for name in order[:10]]
        np.testing.assert_allclose(found.best_cosines[place], nearest, atol=2e-6)
        assert labels[found.best_indices[place]].tolist() == order[:10]


def test_queries_in_a_batch_have_the_same_neighbors_as_alone():
    gallery, labels = draw(3000, individuals=700, size=16)
    queries, _ = draw(1100, individuals=700, size=16, seed=1)
    index = GalleryIndex(gallery, labels)
    together = find_neighbors(normalize_rows(queries), index, individuals=20, neighbours=5)
    for place in (0, 500, 1023, 1024, 1099):
        alone = find_neighbors(normalize_rows(queries[place : place + 1]), index, individuals=20, neighbours=5)
        assert together.indices[place].tolist() == alone.indices[0].tolist()
        assert together.individuals[place].tolist() == alone.individuals[0].tolist()


@pytest.mark.parametrize(("rows", "columns", "count"), [(5, 40, 40), (7, 900, 12), (3, 5000, 100)])
@pytest.mark.parametrize("kind", ["distinct", "equal", "few values"])
def test_candidates_of_a_matrix_product_are_those_of_a_sort(rows, columns, count, kind):
    random = np.random.default_rng(count)
    vectors = random.normal(size=(columns, 6))
    if kind == "equal":
        vectors[columns // 3 :] = vectors[0]
    if kind == "few values":
        vectors = np.eye(6)[random.integers(0, 6, columns)]
    vectors, queries = normalize_rows(vectors), normalize_rows(random.normal(size=(rows, 6)))
    places, cosines = nearest_candidates(queries, vectors, count)
    wanted = np.sort(queries @ vectors.T, axis=1)[:, ::-1][:, :count]
    np.testing.assert_allclose(cosines, wanted, atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(queries @ vectors.T, places, axis=1), cosines, atol=1e-6)
    assert all(len(set(row)) == count for row in places.tolist())


@pytest.mark.parametrize("count", [12, 500, 900])
def test_candidates_of_equal_cosine_are_in_gallery_order_also_at_zero_and_below(count):
    random = np.random.default_rng(0)
    vectors = np.eye(6, dtype=np.float32)[random.integers(0, 6, 900)]
    queries = np.array([[0.5, -0.5, 0.5, -0.5, 0.0, -0.0], [-1, 0, 0, 0, 0, 0]], dtype=np.float32)
    order = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :count]
    places, cosines = nearest_candidates(queries, vectors, count)
    assert places.tolist() == order.tolist()
    assert cosines.tolist() == np.take_along_axis(queries @ vectors.T, order, axis=1).tolist()
