from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

import pytest

from whale_ray.retrieval.search.retrieval_options import (
    RETRIEVAL_OPTIONS,
    describe_setting,
    effective_values,
    has_effect,
    option_choices,
)
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting
from whale_ray.retrieval.search.voting import VOTES


def test_the_table_has_a_row_for_each_field_of_a_retrieval_setting() -> None:
    assert {option.name for option in RETRIEVAL_OPTIONS} == {field.name for field in fields(RetrievalSetting)}


def test_the_value_that_turns_an_option_off_is_the_default_of_its_field() -> None:
    plain = RetrievalSetting()
    for option in RETRIEVAL_OPTIONS:
        if option.off is not None:
            assert getattr(plain, option.name) == option.off


def test_conditions_name_options_and_values_that_exist() -> None:
    for option in RETRIEVAL_OPTIONS:
        if option.condition is not None:
            assert {*option.condition.only, *option.condition.unless} <= set(option_choices(option.condition.key))


def test_the_votes_of_the_table_are_those_that_are_implemented() -> None:
    assert set(option_choices("vote")) == set(VOTES)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("vote", {}, True),
        ("neighbours", {"vote": "nearest"}, False),
        ("neighbours", {}, False),
        ("neighbours", {"vote": "majority"}, True),
        ("temperature", {"vote": "majority"}, False),
        ("temperature", {"vote": "softmax"}, True),
        ("whitened_size", {"vote": "nearest"}, False),
        ("whitened_size", {"whiten": "learned"}, True),
        ("rerank", {"vote": "centroid"}, False),
        ("rerank_k1", {"vote": "nearest"}, False),
        ("rerank_k1", {"vote": "nearest", "rerank": "k_reciprocal"}, True),
        ("rerank_k1", {"vote": "centroid", "rerank": "k_reciprocal"}, False),
        ("classifier_weight", {"vote": "centroid"}, False),
    ],
)
def test_an_option_has_an_effect_under_its_condition_alone(name: str, values: dict[str, str], expected: bool) -> None:
    assert has_effect(name, values) is expected


def test_options_without_effect_are_off_or_left_out() -> None:
    values = {"vote": "centroid", "neighbours": 3, "rerank": "k_reciprocal", "rerank_k1": 5, "expand_query": 2}
    assert effective_values(values) == {"vote": "centroid", "rerank": "none", "expand_query": 2}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ""),
        ({"vote": "nearest", "neighbours": float("nan"), "temperature": 0.05}, "nearest"),
        (
            {"vote": "majority", "neighbours": 5.0, "flip": "average", "whiten": "pca", "whitened_size": 64.0},
            "majority, k 5, plain and mirrored, whitened (pca), 64 dimensions",
        ),
        (
            {"vote": "nearest", "rerank": "k_reciprocal", "rerank_k1": 20, "rerank_k2": 6, "rerank_lambda": 0.3},
            "nearest, re-ranked (k_reciprocal), k1 20, k2 6, λ 0.3",
        ),
        ({"vote": "nearest", "augment_gallery": 2, "classifier_weight": 0.25}, "nearest, gallery + 2, classifier 0.25"),
    ],
)
def test_a_description_names_the_options_that_are_on(values: dict[str, object], expected: str) -> None:
    assert describe_setting(values) == expected


def test_the_table_is_read_without_numpy() -> None:
    code = "import sys, whale_ray.retrieval.search.retrieval_options; sys.exit('numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
