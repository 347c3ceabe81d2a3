import pytest

from whale_ray.errors import InputError
from whale_ray.retrieval.setting import RetrievalSetting, distinct_settings


def test_settings_that_rank_alike_are_tried_once():
    settings = distinct_settings(
        vote=["centroid", "nearest", "majority", "softmax"],
        neighbours=[3, 7],
        temperature=[0.05, 0.1],
        flip=["none", "average"],
    )
    assert len(settings) == len(set(settings)) == 2 * (1 + 1 + 2 + 2 * 2)
    assert settings[0] == RetrievalSetting("centroid")


def test_the_first_values_come_first():
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
    ],
)
def test_a_setting_checks_itself(options, message):
    with pytest.raises(InputError, match=message):
        RetrievalSetting(**options)
