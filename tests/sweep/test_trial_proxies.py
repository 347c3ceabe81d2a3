"""What a loss has learned, as rows beside the photographs' vectors."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from whale_ray.errors import InputError
from whale_ray.learning.losses.class_proxies import class_proxies
from whale_ray.learning.losses.registry import build_loss
from whale_ray.retrieval.evaluation.search_runs import PROXY
from whale_ray.sweep.trials.proxy_vectors import Proxies, join_proxies, learned_proxies, stored_proxies, with_proxies

TABLE = pd.DataFrame(
    {
        "image": [f"{place}.jpg" for place in range(6)],
        "individual": ["w_b", "w_a", "w_a", "new_whale", "w_c", "w_b"],
        "group": [""] * 6,
        "part": ["train", "train", "val", "train", "val", "val"],
    }
)


def some(count: int = 2, *, size: int = 4, split: int = 0) -> Proxies:
    vectors = np.random.default_rng(split).normal(size=(count, size)).astype(np.float16)
    return Proxies(vectors, np.array([f"w_{place}" for place in range(count)]), np.full(count, split))


def test_proxies_are_of_training_individuals_in_the_order_of_names_and_not_of_mirrored_ones() -> None:
    torch.manual_seed(0)
    loss = build_loss("subcenter_arcface", num_classes=4, embedding_size=3, sub_centers=2)
    found = learned_proxies(loss, TABLE, num_classes=4, unknown_label="new_whale")
    assert found is not None
    assert found.individuals.tolist() == ["w_a", "w_a", "w_b", "w_b"]
    every = class_proxies(loss, num_classes=4)
    assert every is not None
    assert found.vectors.tolist() == every[:2].reshape(4, 3).tolist()


def test_a_loss_over_pairs_leaves_none() -> None:
    loss = build_loss("triplet", num_classes=2, embedding_size=3)
    assert learned_proxies(loss, TABLE, num_classes=2, unknown_label="new_whale") is None
    views = {"plain": np.zeros((6, 3), dtype=np.float16)}
    assert with_proxies(views, TABLE, None) == (views, TABLE)


def test_rows_of_proxies_follow_the_photographs_in_every_view() -> None:
    random = np.random.default_rng(0)
    views = {name: random.normal(size=(6, 4)).astype(np.float16) for name in ("plain", "flip")}
    every, table = with_proxies(views, TABLE.assign(split=0), some(split=3))
    assert table["part"].tolist() == [*TABLE["part"], PROXY, PROXY]
    assert table["individual"].tolist()[6:] == ["w_0", "w_1"]
    assert table["image"].tolist()[6:] == table["group"].tolist()[6:] == ["", ""]
    assert table["split"].tolist() == [0] * 6 + [3] * 2
    for name, view in every.items():
        assert view.tolist() == [*views[name].tolist(), *some(split=3).vectors.tolist()]


def test_proxies_of_several_splits_stand_one_after_the_other_and_of_all_or_none() -> None:
    joined = join_proxies([some(split=0), some(3, split=1)])
    assert joined is not None
    assert joined.splits.tolist() == [0, 0, 1, 1, 1]
    assert joined.vectors.tolist() == [*some().vectors.tolist(), *some(3, split=1).vectors.tolist()]
    assert join_proxies([some(), None]) is None
    assert join_proxies([]) is None


def test_what_was_stored_is_read_again_and_what_is_foreign_is_refused() -> None:
    stored = some().arrays()
    read = stored_proxies(stored, size=4)
    assert read is not None
    assert all(
        np.array_equal(one, other) for one, other in zip(vars(read).values(), vars(some()).values(), strict=True)
    )
    assert stored_proxies({}, size=4) is None
    for wrong in ({"proxies": stored["proxies"][:1]}, {"proxies": np.zeros((2, 4))}, {"proxy_split": np.zeros(2)}):
        with pytest.raises(InputError, match=r"proxies must be float16 \(P, 4\) with a name each"):
            stored_proxies(stored | wrong, size=4)
    with pytest.raises(InputError, match=r"float16 \(P, 5\).*but are \(2, 4\)"):
        stored_proxies(stored, size=5)
