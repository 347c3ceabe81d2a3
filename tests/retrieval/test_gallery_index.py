import numpy as np
import pytest

from whale_ray.errors import InputError
from whale_ray.retrieval.search.gallery_index import GalleryIndex, combine_views, normalize_rows


def test_vectors_are_rounded_to_float16_before_they_get_unit_length():
    vectors = np.array([[1.0001, 2.0], [0.0, 0.0]])
    rounded = np.array([1.0, 2.0]) / np.sqrt(5.0)
    np.testing.assert_allclose(normalize_rows(vectors), [rounded, [0.0, 0.0]], atol=1e-7)


def test_stored_vectors_are_the_same_after_another_rounding():
    stored = normalize_rows(np.random.default_rng(0).normal(size=(50, 16))).astype(np.float16)
    np.testing.assert_array_equal(normalize_rows(stored), normalize_rows(stored.astype(np.float32)))


def test_vectors_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="must be finite"):
        normalize_rows(np.array([[np.nan, 1.0]]))


def test_names_are_sorted_and_unknown_names_have_negative_codes():
    index = GalleryIndex(np.eye(3), np.array(["w_b", "w_a", "w_b"]))
    assert index.names.tolist() == ["w_a", "w_b"]
    assert index.codes_of(np.array(["w_b", "w_z", "", "w_a"])).tolist() == [1, -1, -1, 0]
    assert index.images_per_individual.tolist() == [1, 2]


def test_centroids_are_unit_means_of_unit_vectors():
    index = GalleryIndex(np.array([[2.0, 0.0], [0.0, 1.0], [0.0, 5.0]]), np.array(["w_a", "w_a", "w_b"]))
    half = np.sqrt(0.5)
    np.testing.assert_allclose(index.centroids.vectors, [[half, half], [0.0, 1.0]], atol=1e-7)


def test_centroids_of_equal_images_do_not_depend_on_their_number():
    vector = np.array([0.3, -0.7, 0.2])
    index = GalleryIndex(np.tile(vector, (6, 1)), np.array(["w_a", "w_b", "w_b", "w_c", "w_c", "w_c"]))
    assert len(np.unique(index.centroids.vectors, axis=0)) == 1


def test_averaged_views_are_the_unit_mean_of_unit_vectors():
    views = {"plain": np.array([[3.0, 0.0]]), "flip": np.array([[0.0, 1.0]])}
    np.testing.assert_allclose(combine_views(views, "average"), [[np.sqrt(0.5), np.sqrt(0.5)]], atol=1e-3)
    np.testing.assert_array_equal(combine_views(views, "none"), [[3.0, 0.0]])
    assert combine_views(views, "average").dtype == combine_views(views, "none").dtype == np.float16


def test_a_missing_view_is_named():
    with pytest.raises(InputError, match="plain, flip, but got plain"):
        combine_views({"plain": np.eye(2)}, "average")
