from functools import partial

import numpy as np
import pytest

from whale_ray.retrieval.search.gallery_index import GalleryIndex, normalize_rows
from whale_ray.retrieval.search.nearest_images.inverted_lists import RECALL, InvertedLists, make_lists
from whale_ray.retrieval.search.neighbor_search import find_neighbors
from whale_ray.retrieval.search.pools import PooledSearcher
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting, SearchMode
from whale_ray.retrieval.search.searcher import GallerySearcher

IMAGES, INDIVIDUALS, SIZE = 8000, 400, 24
SETTINGS = {
    "nearest": RetrievalSetting(),
    "majority": RetrievalSetting("majority", 5),
    "softmax": RetrievalSetting("softmax", 10),
}
EXACT = {
    "expanded query": RetrievalSetting(expand_query=3),
    "augmented gallery": RetrievalSetting(augment_gallery=3),
    "k_reciprocal": RetrievalSetting(rerank="k_reciprocal", rerank_k1=4, rerank_k2=2, rerank_lambda=0.3),
    "weighted viewpoints": RetrievalSetting(side="weighted", side_penalty=0.1),
    "centroid": RetrievalSetting("centroid"),
}


def draw(count, *, seed=0):
    """Unit vectors of clustered individuals in few directions, as embeddings are, and their names."""
    members = np.random.default_rng(seed).permutation(np.arange(count) % INDIVIDUALS)
    scale = np.arange(1, SIZE + 1) ** -0.5
    centers = np.random.default_rng(1).normal(size=(INDIVIDUALS, SIZE)) * scale
    vectors = centers[members] + 0.2 * np.random.default_rng(seed + 2).normal(size=(count, SIZE)) * scale
    return normalize_rows(vectors), np.array([f"w_{member:04d}" for member in members])


@pytest.fixture(scope="module")
def searchers():
    """A searcher with inverted lists, and an exact one of the same gallery."""
    vectors, names = draw(IMAGES)
    found = [PooledSearcher(vectors, names, ready=True) for _ in range(2)]
    found[0].index.lists = make_lists(found[0].index.vectors)
    assert found[0].index.lists is not None
    return found


@pytest.mark.parametrize("name", SETTINGS)
def test_rankings_by_lists_are_those_of_an_exact_search_but_for_few(searchers, name):
    queries, _ = draw(300, seed=5)
    by_lists, exact = (one.rank(queries, SETTINGS[name], first=5, ready=True).ranking for one in searchers)
    same = by_lists.individuals[:, :10, None] == exact.individuals[:, None, :10]
    assert same.any(axis=1).mean() >= 0.99
    assert (by_lists.individuals[:, 0] == exact.individuals[:, 0]).mean() >= 0.99
    both = by_lists.individuals == exact.individuals
    np.testing.assert_array_equal(by_lists.cosines[both], exact.cosines[both])


@pytest.mark.parametrize("name", EXACT)
def test_settings_that_need_the_scores_of_all_images_search_exactly(searchers, name):
    queries, _ = draw(20, seed=5)
    by_lists, exact = (one.rank(queries, EXACT[name], first=5, ready=True).ranking for one in searchers)
    for field in ("individuals", "cosines", "images"):
        np.testing.assert_array_equal(getattr(by_lists, field), getattr(exact, field))


def test_lists_are_made_for_large_galleries_and_settings_that_use_them(monkeypatch):
    searcher = GallerySearcher(*draw(IMAGES), ready=True)
    searcher.use_lists(SearchMode())
    assert searcher.index.lists is None, "the gallery is small"
    monkeypatch.setattr("whale_ray.retrieval.search.searcher.LISTS_FROM", IMAGES)
    searcher.use_lists(EXACT["k_reciprocal"].search_mode)
    assert searcher.index.lists is None
    searcher.use_lists(SearchMode())
    assert searcher.index.lists.recall >= RECALL


def test_a_gallery_in_which_the_lists_miss_too_many_images_is_searched_exactly(monkeypatch):
    monkeypatch.setattr("whale_ray.retrieval.search.nearest_images.inverted_lists.RECALL", 1.01)
    assert make_lists(draw(1000)[0]) is None


def test_lists_that_hold_too_few_individuals_are_followed_by_an_exact_search():
    vectors = np.concatenate([draw(IMAGES)[0], normalize_rows(np.tile(np.arange(1.0, SIZE + 1), (4000, 1)))])
    names = np.array([*draw(IMAGES)[1], *["w_many"] * 4000])
    indexes = [GalleryIndex(vectors, names, ready=True) for _ in range(2)]
    indexes[0].lists = InvertedLists(indexes[0].vectors)
    by_lists, exact = map(partial(find_neighbors, vectors[-1:], individuals=50, neighbours=3, by_lists=True), indexes)
    assert by_lists.individuals.tolist() == exact.individuals.tolist()


@pytest.mark.parametrize("added", [0, 30, 400])
def test_a_gallery_that_changed_uses_the_lists_that_it_had(searchers, added):
    earlier = searchers[0].index
    rows = np.flatnonzero(np.arange(IMAGES) % 7 > 0)
    vectors, names = draw(IMAGES)
    new_vectors, new_names = draw(added, seed=9)
    gallery = np.concatenate([vectors[rows], new_vectors]), np.concatenate([names[rows], new_names])
    moved, exact = (PooledSearcher(*gallery, ready=True) for _ in range(2))
    moved.index.move_lists(earlier, rows)
    queries = np.concatenate([new_vectors, vectors[:100], draw(200, seed=5)[0]])
    by_lists, wanted = (one.rank(queries, SETTINGS["nearest"], first=5, ready=True).ranking for one in (moved, exact))
    assert (by_lists.individuals[:, 0] == wanted.individuals[:, 0]).mean() >= 0.99
    assert (by_lists.images[:added, 0] >= len(rows)).all(), "an added image is found at once"
    assert by_lists.images.max() < len(gallery[0])


def test_a_gallery_without_lists_passes_none_on(searchers):
    later = GalleryIndex(*draw(100), ready=True)
    later.move_lists(searchers[1].index, np.arange(100))
    assert later.lists is None
