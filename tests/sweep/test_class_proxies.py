"""Class proxies of a trial: read from the loss, joined over splits, stored and read again."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from whale_ray.errors import InputError
from whale_ray.learning.losses.proxy_extraction import class_proxies
from whale_ray.learning.losses.registry import build_loss
from whale_ray.retrieval.search.proxy_classifier import ClassProxies
from whale_ray.sweep.trials.class_proxies import (
    join_proxies,
    learned_proxies,
    proxies_from_arrays,
    proxies_to_arrays,
)

TABLE = pd.DataFrame(
    {
        "image": [f"{place}.jpg" for place in range(6)],
        "individual": ["w_b", "w_a", "w_a", "new_whale", "w_c", "w_b"],
        "group": [""] * 6,
        "part": ["train", "train", "val", "train", "val", "val"],
    }
)


def draw_proxies(count: int = 2, *, size: int = 4, seed: int = 0) -> ClassProxies:
    vectors = np.random.default_rng(seed).normal(size=(count, size)).astype(np.float16)
    return ClassProxies(vectors, np.array([f"w_{place}" for place in range(count)]))


def test_proxies_are_of_training_individuals_in_the_order_of_names_and_not_of_mirrored_ones() -> None:
    torch.manual_seed(0)
    loss = build_loss("subcenter_arcface", num_classes=4, embedding_size=3, sub_centers=2)
    found = learned_proxies(loss, TABLE, num_classes=4, unknown_label="new_whale")
    assert found is not None
    assert found.individuals.tolist() == ["w_a", "w_a", "w_b", "w_b"]
    every = class_proxies(loss, num_classes=4)
    assert every is not None
    assert found.vectors.tolist() == every[:2].reshape(4, 3).tolist()


def test_a_pair_loss_has_no_proxies() -> None:
    loss = build_loss("triplet", num_classes=2, embedding_size=3)
    assert learned_proxies(loss, TABLE, num_classes=2, unknown_label="new_whale") is None
    assert join_proxies({}) is None
    assert proxies_to_arrays({}) == {}
    assert proxies_from_arrays({}, size=3) == {}


def test_proxies_of_several_splits_are_joined_in_their_order() -> None:
    first, second = draw_proxies(), draw_proxies(3, seed=1)
    joined = join_proxies({0: first, 1: second})
    assert joined is not None
    assert joined.vectors.tolist() == [*first.vectors.tolist(), *second.vectors.tolist()]
    assert joined.individuals.tolist() == ["w_0", "w_1", "w_0", "w_1", "w_2"]


def test_stored_proxies_are_read_again_by_split() -> None:
    proxies = {0: draw_proxies(), 3: draw_proxies(3, seed=1)}
    stored = proxies_to_arrays(proxies)
    assert stored["proxy_split"].tolist() == [0, 0, 3, 3, 3]
    read = proxies_from_arrays(stored, size=4)
    assert list(read) == [0, 3]
    for split, one in proxies.items():
        assert read[split].vectors.dtype == np.float16
        assert np.array_equal(read[split].vectors, one.vectors)
        assert np.array_equal(read[split].individuals, one.individuals)


def test_stored_proxies_of_another_type_or_shape_are_refused() -> None:
    stored = proxies_to_arrays({0: draw_proxies()})
    for wrong in ({"proxies": stored["proxies"][:1]}, {"proxies": np.zeros((2, 4))}, {"proxy_split": np.zeros(2)}):
        with pytest.raises(InputError, match=r"proxies must be float16 \(P, 4\) with a name each"):
            proxies_from_arrays(stored | wrong, size=4)
    with pytest.raises(InputError, match=r"float16 \(P, 5\).*but are \(2, 4\)"):
        proxies_from_arrays(stored, size=5)
