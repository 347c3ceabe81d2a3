"""Searcher: a single query is ranked as in the batch of the evaluation, in every search mode."""

import numpy as np
import pytest

from whale_ray.retrieval.evaluation.evaluate import evaluate
from whale_ray.retrieval.search.gallery_index import GalleryIndex, normalize_rows
from whale_ray.retrieval.search.k_reciprocal import KReciprocalReranker
from whale_ray.retrieval.search.proxy_classifier import ClassProxies
from whale_ray.retrieval.search.query_expansion import augment_gallery, expand_queries
from whale_ray.retrieval.search.retrieval_settings import Rerank, RetrievalSetting, SearchMode
from whale_ray.retrieval.search.searcher import GallerySearcher

RERANK = {"rerank": "k_reciprocal", "rerank_k1": 6, "rerank_k2": 3, "rerank_lambda": 0.3}
SETTINGS = [
    RetrievalSetting(),
    RetrievalSetting(expand_query=3),
    RetrievalSetting(augment_gallery=2),
    RetrievalSetting("centroid", expand_query=1, augment_gallery=1),
    RetrievalSetting("majority", 5, **RERANK),
    RetrievalSetting("softmax", 5, expand_query=2, augment_gallery=1, **RERANK),
    RetrievalSetting(classifier_weight=0.4),
    RetrievalSetting("majority", 5, expand_query=1, classifier_weight=0.6, **RERANK),
]
PROXIES = ClassProxies(
    np.random.default_rng(7).normal(size=(18, 8)), np.repeat([f"w_{member:02d}" for member in range(9)], 2)
)


def draw(images, *, individuals=9, size=8, seed=0, spread=0.7):
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(individuals, size))
    members = random.integers(0, individuals, images)
    vectors = centres[members] + spread * random.normal(size=(images, size))
    return vectors, np.array([f"w_{member:02d}" for member in members])


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_a_single_query_is_ranked_as_in_the_batch_of_the_evaluation(setting):
    vectors, labels = draw(70)
    queries, truth = draw(30, seed=1)
    evaluation = evaluate(
        {"plain": np.concatenate([vectors, queries]).astype(np.float16)},
        individuals=np.concatenate([labels, truth]),
        parts=np.array(["train"] * 70 + ["val"] * 30),
        images=np.array([f"{place}.jpg" for place in range(100)]),
        proxies={0: PROXIES},
        settings=[setting],
        unknown_label="new_whale",
    )
    assert evaluation.best == setting
    searcher = GallerySearcher(vectors.astype(np.float16), labels, proxies=PROXIES)
    for query, (_, row) in zip(queries, evaluation.queries.iterrows(), strict=True):
        ranking = searcher.rank(query[None].astype(np.float16), setting)
        names = searcher.index.names[ranking.individuals[0]].tolist()
        assert names.index(row["individual"]) + 1 == row["rank"]
        assert names[0] == row["nearest_individual"]
        assert ranking.cosines[0, 0] == pytest.approx(row["cosine"], abs=2e-6)
        _, images = searcher.nearest_images(query[None], ranking, setting.search_mode, first=1)
        assert row["nearest_image"] == f"{images[0, 0]}.jpg"


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_a_normalized_query_gets_the_ranking_of_its_stored_vector_bit_for_bit(setting):
    vectors, labels = draw(70)
    stored = draw(200, seed=1)[0].astype(np.float16)
    searcher = GallerySearcher(vectors, labels, proxies=PROXIES)
    unit = normalize_rows(stored)
    assert (normalize_rows(unit) != unit).any()  # a second rounding would move these vectors
    measured, served = searcher.rank(stored, setting), searcher.rank(unit, setting, ready=True)
    mode = setting.search_mode
    shown = searcher.nearest_images(stored, measured, mode, first=4)
    np.testing.assert_array_equal(served.individuals, measured.individuals)
    np.testing.assert_array_equal(served.cosines, measured.cosines)
    np.testing.assert_array_equal(searcher.nearest_images(unit, served, mode, first=4, ready=True), shown)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_the_reported_cosine_is_that_of_the_unexpanded_vectors(setting):
    vectors, labels = draw(70)
    queries, _ = draw(5, seed=1)
    searcher = GallerySearcher(vectors, labels, proxies=PROXIES)
    ranking = searcher.rank(queries, setting)
    cosines, images = searcher.nearest_images(queries, ranking, setting.search_mode, first=4)
    table = normalize_rows(queries).astype(float) @ normalize_rows(vectors).astype(float).T
    for row, codes, shown, rows in zip(table, ranking.individuals, cosines, images, strict=True):
        for code, cosine, image in zip(codes[:4], shown, rows, strict=True):
            own = np.flatnonzero(labels == searcher.index.names[code])
            assert image == own[row[own].argmax()]
            assert cosine == pytest.approx(row[image], abs=2e-6)


def test_expanded_queries_search_the_augmented_gallery_and_are_reranked():
    vectors, labels = draw(40)
    queries, _ = draw(6, seed=1)
    mode = SearchMode(expand_query=2, augment_gallery=3, rerank=Rerank(6, 3, 0.3))
    found = GallerySearcher(vectors, labels).find(queries, mode, neighbours=40)
    index = augment_gallery(GalleryIndex(vectors, labels), 3)
    asked = expand_queries(normalize_rows(queries), index, 2).astype(float)
    scores = KReciprocalReranker(index, Rerank(6, 3, 0.3))(asked, asked @ index.vectors.astype(float).T)
    for row, indices, cosines in zip(scores, found.indices, found.cosines, strict=True):
        np.testing.assert_allclose(row[np.argsort(index.rows)][indices], cosines, atol=1e-6)
        assert (np.diff(cosines) <= 0).all()


def test_a_query_changes_nothing_for_another_one():
    """Neither expansion nor circles know the other queries: a crowd of copies near one moves nothing."""
    vectors, labels = draw(40)
    queries, _ = draw(3, seed=1)
    crowd = np.concatenate([queries, np.repeat(queries[:1], 30, axis=0) + 0.01])
    for setting in SETTINGS:
        few, many = (
            GallerySearcher(vectors, labels, proxies=PROXIES).rank(asked, setting) for asked in (queries, crowd)
        )
        assert few.individuals.tolist() == many.individuals[:3].tolist()
        np.testing.assert_allclose(few.cosines, many.cosines[:3], atol=2e-6)


def test_individuals_have_scores_in_the_range_of_a_cosine_best_first():
    vectors, labels = draw(70)
    ranking = GallerySearcher(vectors, labels).rank(draw(20, seed=1)[0], RetrievalSetting(**RERANK))
    assert (np.diff(ranking.cosines, axis=1) <= 0).all()
    assert -1 <= ranking.cosines.min() < ranking.cosines.max() <= 1


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_a_gallery_of_one_individual_and_an_empty_gallery_are_searched(setting):
    queries, _ = draw(2)
    one = GallerySearcher(draw(3)[0], np.array(["a", "a", "a"]), proxies=PROXIES)
    assert one.rank(queries, setting).individuals.tolist() == [[0], [0]]
    empty = GallerySearcher(np.zeros((0, 8)), np.array([], dtype=str), proxies=PROXIES)
    ranking = empty.rank(queries, setting)
    assert ranking.individuals.shape == (2, 0)
    assert empty.nearest_images(queries, ranking, setting.search_mode, first=5)[0].shape == (2, 0)
