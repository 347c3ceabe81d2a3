import numpy as np
import pytest

from whale_ray.errors import InputError
from whale_ray.retrieval.evaluation.evaluate import evaluate
from whale_ray.retrieval.search.gallery_index import normalize_rows
from whale_ray.retrieval.search.proxy_classifier import ClassProxies
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting
from whale_ray.retrieval.search.searcher import GallerySearcher


def draw(images, *, individuals=7, size=6, seed=0):
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(images, size))
    return vectors, np.array([f"w_{code}" for code in random.integers(0, individuals, images)])


@pytest.mark.parametrize("weight", [0.3, 0.5, 1.0])
def test_an_individual_s_score_is_the_mixture_of_its_nearest_image_and_its_nearest_proxy(weight):
    vectors, labels = draw(40)
    queries, _ = draw(9, seed=1)
    proxies, names = draw(20, seed=2)[0], np.array([f"w_{place % 7}" for place in range(20)])
    matcher = GallerySearcher(vectors, labels, proxies=ClassProxies(proxies, names))
    ranking = matcher.rank(queries, RetrievalSetting(classifier_weight=weight))
    asked, gallery, learned = (normalize_rows(each).astype(float).tolist() for each in (queries, vectors, proxies))
    for query, codes, scores in zip(asked, ranking.individuals, ranking.cosines, strict=True):
        expected = {}
        for name in set(labels):
            image, proxy = (
                max(sum(a * b for a, b in zip(query, one, strict=True)) for one, own in pairs if own == name)
                for pairs in (zip(gallery, labels, strict=True), zip(learned, names, strict=True))
            )
            expected[name] = (1 - weight) * image + weight * proxy
        found = matcher.index.names[codes].tolist()
        assert found == sorted(expected, key=lambda name: -expected[name])
        assert scores.tolist() == pytest.approx([expected[name] for name in found], abs=2e-6)


def test_individuals_without_a_proxy_keep_their_score_and_foreign_proxies_are_ignored():
    vectors = np.array([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0]])
    proxies = ClassProxies(np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]), np.array(["a", "stranger"]))
    matcher = GallerySearcher(vectors, np.array(["a", "enrolled"]), proxies=proxies)
    ranking = matcher.rank(np.array([[1.0, 0.0, 0.0]]), RetrievalSetting(classifier_weight=0.5))
    assert matcher.index.names[ranking.individuals[0]].tolist() == ["enrolled", "a"]
    assert ranking.cosines[0].tolist() == pytest.approx([0.8, 0.5], abs=1e-3)


def test_a_classifier_without_proxies_is_refused():
    with pytest.raises(InputError, match=r"classifier_weight 0\.5 needs the proxies of a loss, but there are none"):
        GallerySearcher(np.eye(2), np.array(["a", "b"])).rank(np.eye(2), RetrievalSetting(classifier_weight=0.5))


def evaluation_of(vectors, labels, parts, *, settings, proxies=None):
    return evaluate(
        {"plain": vectors.astype(np.float16)},
        individuals=labels,
        parts=parts,
        images=np.array([f"{place}.jpg" for place in range(len(labels))]),
        settings=settings,
        unknown_label="new_whale",
        proxies=proxies,
    )


def crowd():
    """Return embeddings whose nearest neighbors mislead, and class proxies that do not."""
    random = np.random.default_rng(0)
    centres = np.eye(12)
    members = np.tile(np.arange(12), 6)
    vectors = centres[members] + 0.9 * random.normal(size=(72, 12))
    labels = np.array([f"w_{member:02d}" for member in members])
    parts = np.array(["train"] * 36 + ["val"] * 36)
    proxies = ClassProxies(centres.astype(np.float16), np.array([f"w_{member:02d}" for member in range(12)]))
    return (vectors, labels, parts), {0: proxies}


def test_a_useful_classifier_is_chosen_and_proxies_are_neither_gallery_nor_query():
    settings = [RetrievalSetting(classifier_weight=weight) for weight in (0.0, 0.5)]
    photographs, proxies = crowd()
    evaluation = evaluation_of(*photographs, settings=settings, proxies=proxies)
    assert evaluation.best.classifier_weight == 0.5
    assert evaluation.table["classifier_weight"].tolist() == [0.0, 0.5]
    without = evaluation_of(*photographs, settings=settings[:1])
    assert evaluation.scores["queries"] == without.scores["queries"] == 36
    plain, mixed = evaluation.table["recall@1"]
    assert plain == without.table["recall@1"].item() < mixed


def test_whitening_is_not_fitted_on_proxies_but_transforms_them():
    settings = [RetrievalSetting(whiten="pca", classifier_weight=weight) for weight in (0.0, 0.5)]
    photographs, proxies = crowd()
    evaluation = evaluation_of(*photographs, settings=settings, proxies=proxies)
    without = evaluation_of(*photographs, settings=settings[:1])
    plain, mixed = evaluation.table["recall@1"]
    assert plain == without.table["recall@1"].item() < mixed


def test_without_proxies_the_classifier_weight_is_none_and_each_setting_is_scored_once():
    votes = ("nearest", "softmax")
    settings = [RetrievalSetting(vote, 3, classifier_weight=weight) for weight in (0.3, 0.0) for vote in votes]
    evaluation = evaluation_of(*crowd()[0], settings=settings)
    assert evaluation.table["classifier_weight"].tolist() == [0.0, 0.0]
    assert evaluation.table["vote"].tolist() == ["nearest", "softmax"]


def test_class_proxies_need_one_individual_each():
    with pytest.raises(
        InputError, match=r"must have shape \(P, D\) and P individuals, but got vectors of shape \(2, 3\)"
    ):
        ClassProxies(np.zeros((2, 3), dtype=np.float16), np.array(["w_a"]))


def test_each_split_is_searched_with_its_own_class_proxies():
    (vectors, labels, parts), proxies = crowd()
    misleading = {0: ClassProxies(proxies[0].vectors[::-1], proxies[0].individuals)}
    setting = RetrievalSetting(classifier_weight=0.9)
    good, bad = (
        evaluation_of(vectors, labels, parts, settings=[setting], proxies=one).table["recall@1"].item()
        for one in (proxies, misleading)
    )
    both = evaluate(
        {"plain": np.concatenate([vectors, vectors]).astype(np.float16)},
        individuals=np.concatenate([labels, labels]),
        parts=np.concatenate([parts, parts]),
        images=np.array([f"{place}.jpg" for place in range(144)]),
        splits=np.repeat([0, 1], 72),
        settings=[setting],
        unknown_label="new_whale",
        proxies={0: proxies[0], 1: misleading[0]},
    )
    assert bad < good
    assert both.table["recall@1"].item() == pytest.approx((good + bad) / 2)
