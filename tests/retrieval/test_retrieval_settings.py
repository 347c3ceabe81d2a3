import pytest

from whale_ray.errors import InputError
from whale_ray.retrieval.search.retrieval_settings import (
    Rerank,
    RetrievalSetting,
    distinct_settings,
    without_classifier,
)

RERANK = {"rerank": "k_reciprocal", "rerank_k1": 20, "rerank_k2": 6, "rerank_lambda": 0.3}


def test_settings_with_equal_rankings_are_tried_once():
    settings = distinct_settings(
        vote=["centroid", "nearest", "majority", "softmax"],
        neighbours=[3, 7],
        temperature=[0.05, 0.1],
        flip=["none", "average"],
    )
    assert len(settings) == len(set(settings)) == 2 * (1 + 1 + 2 + 2 * 2)
    assert settings[0] == RetrievalSetting("centroid")


def test_reranking_options_count_only_if_reranking_is_on():
    settings = distinct_settings(
        vote=["nearest", "centroid"],
        neighbours=[1],
        temperature=[0.05],
        flip=["none"],
        expand_query=[0, 2],
        rerank=["none", "k_reciprocal"],
        rerank_k1=[10, 20],
        rerank_k2=[6],
        rerank_lambda=[0.3],
        classifier_weight=[0.0, 0.5],
    )
    assert len(settings) == len(set(settings)) == 2 * (1 + 2) * 2 + 2
    assert settings[0] == RetrievalSetting()
    assert {one.search_mode.rerank for one in settings if one.vote == "nearest"} == {None, Rerank(10), Rerank(20)}
    assert not any(one.search_mode.rerank or one.classifier_weight for one in settings if one.vote == "centroid")
    assert len(without_classifier(settings)) == 2 * (1 + 2) + 2


def test_the_baseline_setting_keeps_vote_and_flip():
    setting = RetrievalSetting("softmax", 5, 0.1, "average", "pca", 8, 3, 2, **RERANK, classifier_weight=0.5)
    assert setting.baseline() == RetrievalSetting("softmax", 5, 0.1, "average")


def test_the_setting_of_first_values_is_first():
    settings = distinct_settings(vote=["softmax"], neighbours=[5, 1], temperature=[0.1, 0.2], flip=["average"])
    assert settings[0] == RetrievalSetting("softmax", 5, 0.1, "average")
    assert settings[-1] == RetrievalSetting("softmax", 1, 0.2, "average")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vote": "median"}, "a vote is one of nearest, .*but got 'median'"),
        ({"vote": "majority", "neighbours": 0}, "`neighbours >= 1` must hold for the vote majority, but got 0"),
        ({"vote": "softmax", "neighbours": 1, "temperature": -1.0}, "`temperature > 0` must hold"),
        ({"flip": "both"}, "flip is one of none, average, but got 'both'"),
        ({"expand_query": -1}, "`expand_query >= 0` must hold, but got -1"),
        ({"augment_gallery": -2}, "`augment_gallery >= 0` must hold, but got -2"),
        ({"rerank": "both"}, "rerank is one of none, k_reciprocal, but got 'both'"),
        ({"rerank": "k_reciprocal", "rerank_k1": 20}, "must hold for rerank k_reciprocal, but got 20, None and None"),
        ({**RERANK, "rerank_lambda": 0.0}, "`0 < rerank_lambda <= 1` must hold .*, but got 20, 6 and 0.0"),
        ({"classifier_weight": 1.5}, "`0 <= classifier_weight <= 1` must hold, but got 1.5"),
        ({"classifier_weight": 0.3, "vote": "centroid"}, "classifier_weight 0.3 scores images, but the vote centroid"),
        ({**RERANK, "vote": "centroid"}, "rerank k_reciprocal scores images, but the vote centroid scores none"),
    ],
)
def test_a_setting_checks_itself(options, message):
    with pytest.raises(InputError, match=message):
        RetrievalSetting(**options)
