"""LNBNN scores against an independent computation, with masks, additions and removals."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from pictures import draw_animal, features_of, gallery_of, random_features

from whale_ray.retrieval.local import descriptor_search, local_index
from whale_ray.retrieval.local.descriptor_search import DescriptorSearch
from whale_ray.retrieval.local.feature_store import LocalFeatureStore, join_features
from whale_ray.retrieval.local.local_features import LocalFeatures, no_features
from whale_ray.retrieval.local.local_index import NEIGHBORS, LocalIndex
from whale_ray.serving.gallery.live_keypoints import LiveKeypoints


def scores_by_hand(
    query: LocalFeatures, store: LocalFeatureStore, names: list[str]
) -> tuple[np.ndarray, dict[str, float]]:
    """LNBNN by loops: a query descriptor votes for its nearest descriptors, less the distance to another individual."""
    images, individuals = np.zeros(len(store)), dict.fromkeys(names, 0.0)
    points = store.points.astype(float)
    for point, descriptor in zip(query.points, query.descriptors.astype(int), strict=True):
        distances = np.sqrt(((store.descriptors.astype(int) - descriptor) ** 2).sum(axis=1) / 512**2)
        order = np.argsort(distances, kind="stable")[:8]
        owners = store.owners[order].tolist()
        seen: set[object] = set()
        for place, owner in list(zip(order, owners, strict=True))[:NEIGHBORS]:
            others = [other for other, whose in zip(order, owners, strict=True) if names[whose] != names[owner]]
            gain = max(0.0, distances[others[0] if others else order[-1]] - distances[place])
            gain *= np.exp(-(((point - 0.5) ** 2).sum() + ((points[place] - 0.5) ** 2).sum()) / (2 * 0.4**2))
            for target, total in ((owner, images), (names[owner], individuals)):
                total[target] += 0.0 if target in seen else gain
            seen |= {owner, names[owner]}
    return images, individuals


@pytest.mark.parametrize("counts", [(30, 20, 25, 10), (1, 1, 1), (2, 0, 3), (1,), (5,)])
def test_scores_equal_those_computed_by_loops(counts: tuple[int, ...]) -> None:
    store = join_features([random_features(count, seed=count) for count in counts], "sift")
    names = [f"w{place % 2}" for place in range(len(counts))]
    query = random_features(17, seed=99)
    index = LocalIndex(store, names)
    images, individuals = scores_by_hand(query, store, names)
    np.testing.assert_allclose(index.image_scores(query), images, atol=0.02)
    np.testing.assert_allclose(index.individual_scores(query), [individuals[name] for name in index.names], atol=0.02)


def test_the_photograph_of_the_same_animal_leads() -> None:
    index = LocalIndex(gallery_of(1, 2, 3, 4), ["a", "b", "c", "d"])
    scores = index.individual_scores(features_of(draw_animal(3, degrees=12)))
    assert index.names[scores.argmax()] == "c"
    assert scores.max() > 2 * np.sort(scores)[-2]


def test_keypoints_at_the_edge_count_less_than_those_at_the_center() -> None:
    some = random_features(40, seed=0)
    index = LocalIndex(join_features([random_features(40, seed=1), random_features(40, seed=2)], "sift"), ["a", "b"])
    center, edge = (
        index.image_scores(LocalFeatures(np.full_like(some.points, place), some.descriptors)) for place in (0.5, 0.0)
    )
    np.testing.assert_allclose(edge, center * np.exp(-0.5 / (2 * 0.4**2)), rtol=0.02)


def test_a_second_copy_of_a_photograph_adds_nothing_to_its_individual() -> None:
    query = features_of(draw_animal(3, degrees=12))
    once = LocalIndex(gallery_of(1, 2, 3), ["a", "b", "c"])
    twice = LocalIndex(gallery_of(1, 2, 3, 3), ["a", "b", "c", "c"])
    assert twice.individual_scores(query)[2] <= once.individual_scores(query)[2]


def test_a_mask_gives_the_scores_of_the_gallery_that_it_leaves() -> None:
    store, names = gallery_of(1, 2, 3, 4), np.array(["a", "b", "c", "d"])
    allowed = np.array([True, False, True, True])
    query = features_of(draw_animal(3, degrees=12))
    masked = LocalIndex(store, names).image_scores(query, allowed)
    np.testing.assert_array_equal(
        masked[allowed], LocalIndex(store.subset([0, 2, 3]), names[allowed]).image_scores(query)
    )
    assert masked[1] == 0
    np.testing.assert_array_equal(LocalIndex(store, names).without([1]).image_scores(query), masked)
    np.testing.assert_array_equal(LocalIndex(store, names).subset([0, 2, 3]).image_scores(query), masked[allowed])


def test_an_added_photograph_scores_as_if_the_index_were_built_with_it() -> None:
    query = features_of(draw_animal(3, degrees=12))
    index = LocalIndex(gallery_of(1, 2), ["b", "c"])
    grown = index.add(gallery_of(3, 4), ["a", "b"])
    built = LocalIndex(gallery_of(1, 2, 3, 4), ["b", "c", "a", "b"])
    assert grown.names.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(grown.image_scores(query), built.image_scores(query))
    np.testing.assert_array_equal(grown.individual_scores(query), built.individual_scores(query))
    np.testing.assert_array_equal(grown.features(2).points, gallery_of(3).points)
    assert len(index) == 2
    assert index.image_scores(query).shape == (2,)


def test_added_photographs_stand_beside_inverted_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_index, "EXACT_UP_TO", 100)
    monkeypatch.setattr(descriptor_search, "EXACT_UP_TO", 100)
    monkeypatch.setattr(descriptor_search, "_PROBED", 10**6)
    query = features_of(draw_animal(3, degrees=12))
    grown = LocalIndex(gallery_of(1, 2), ["b", "c"]).add(gallery_of(3), ["a"]).add(gallery_of(4), ["d"])
    built = LocalIndex(gallery_of(1, 2, 3, 4), ["b", "c", "a", "d"], exact=True)
    np.testing.assert_array_equal(grown.image_scores(query), built.image_scores(query))
    allowed = np.array([False, True, True, False])
    np.testing.assert_array_equal(grown.image_scores(query, allowed), built.image_scores(query, allowed))


@pytest.fixture
def filled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of descriptors of each search whose inverted lists were filled."""
    sizes: list[int] = []
    fill = descriptor_search._build_lists

    def count(descriptors: np.ndarray) -> object:
        sizes.append(len(descriptors))
        return fill(descriptors)

    monkeypatch.setattr(descriptor_search, "EXACT_UP_TO", 100)
    monkeypatch.setattr(descriptor_search, "_build_lists", count)
    return sizes


def test_inverted_lists_are_filled_once_and_only_for_a_search(filled: list[int]) -> None:
    index = LocalIndex(gallery_of(1, 2, 3), ["a", "b", "c"])
    chosen = index.select([2, 0], ["c", "a"])
    assert len(index.features(1)) > 0
    assert filled == []
    query = features_of(draw_animal(3, degrees=12))
    assert chosen.image_scores(query).argmax() == 0
    assert index.image_scores(query).argmax() == 2
    assert len(filled) == 1


def test_a_live_gallery_fills_them_before_its_first_search(filled: list[int]) -> None:
    index = LocalIndex(gallery_of(1, 2, 3), ["a", "b", "c"])
    LiveKeypoints(index)
    assert len(filled) == 1
    index.image_scores(features_of(draw_animal(3, degrees=12)))
    assert len(filled) == 1


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("patched", [False, True])
def test_inverted_lists_find_what_the_exact_search_finds(masked: bool, patched: bool) -> None:
    if patched:  # as in every process that loads pytorch-metric-learning
        importlib.import_module("faiss.contrib.torch_utils")
    store = gallery_of(1, 2, 3, 4, 5, 6)
    queries = features_of(draw_animal(3, degrees=12)).descriptors
    allowed = store.owners != 1 if masked else None
    exact, lists = (DescriptorSearch(store.descriptors, exact=exact) for exact in (True, False))
    expected, found = (search.nearest(queries, 5, allowed=allowed) for search in (exact, lists))
    assert (expected[0] == found[0]).mean() > 0.9
    again = DescriptorSearch(store.descriptors, exact=False).nearest(queries, 5, allowed=allowed)
    np.testing.assert_array_equal(found[0], again[0])


def test_a_query_without_keypoints_scores_zero() -> None:
    index = LocalIndex(gallery_of(1, 2), ["a", "b"])
    assert index.image_scores(no_features("sift")).tolist() == [0, 0]
    assert index.individual_scores(no_features("sift")).tolist() == [0, 0]


def test_a_gallery_without_keypoints_or_photographs_scores_zero() -> None:
    query = random_features(5, seed=0)
    assert LocalIndex(join_features([no_features("sift")] * 2, "sift"), ["a", "b"]).image_scores(query).tolist() == [
        0,
        0,
    ]
    assert LocalIndex(join_features([], "sift"), []).image_scores(query).shape == (0,)
    one = LocalIndex(join_features([random_features(9, seed=1)], "sift"), ["a"])
    assert one.image_scores(query, np.array([False])).tolist() == [0]


@pytest.mark.parametrize("exact_up_to", [50_000, 0])
def test_selected_photographs_are_scored_as_if_they_were_the_gallery(
    monkeypatch: pytest.MonkeyPatch, exact_up_to: int
) -> None:
    monkeypatch.setattr(local_index, "EXACT_UP_TO", exact_up_to)  # parts are searched one beside another
    first, second = gallery_of(1, 2, 3, 4), gallery_of(5, 6)
    grown = LocalIndex(first, ["a", "b", "c", "d"]).add(second, ["", ""])
    rows, names = [3, 0, 2, 5], ["d", "a", "e", "e"]
    chosen = grown.select(rows, names)
    whole = LocalFeatureStore.subset(join_features([grown.features(row) for row in range(6)], "sift"), rows)
    alone = LocalIndex(whole, names)
    queries = [features_of(draw_animal(number, degrees=9)) for number in (3, 4, 5, 6, 2)]
    for allowed in (None, np.array([True, False, True, True])):
        for found, expected in zip(chosen.scores(queries, allowed), alone.scores(queries, allowed), strict=True):
            np.testing.assert_array_equal(found, expected)
    assert chosen.names.tolist() == ["a", "d", "e"]
    for row in range(4):
        np.testing.assert_array_equal(chosen.features(row).descriptors, whole.of(row).descriptors)
    again = chosen.select([2, 1], ["e", "a"]).add(gallery_of(2), ["b"])
    expected = LocalIndex(join_features([whole.of(2), whole.of(1), first.of(1)], "sift"), ["e", "a", "b"])
    np.testing.assert_array_equal(again.scores(queries)[0], expected.scores(queries)[0])


def test_a_selection_of_no_photograph_scores_nothing() -> None:
    none = LocalIndex(gallery_of(1, 2), ["a", "b"]).select([], [])
    images, individuals = none.scores([features_of(draw_animal(1))])
    assert (images.shape, individuals.shape, len(none)) == ((1, 0), (1, 0), 0)
