"""Connected components of rows."""

from __future__ import annotations

import numpy as np

from whale_ray.data.components import components_by_keys, components_by_pairs


def test_rows_without_a_pair_are_components_of_their_own() -> None:
    assert components_by_pairs(3, np.empty((0, 2), dtype=int)).tolist() == [0, 1, 2]


def test_a_component_is_numbered_by_its_first_row() -> None:
    assert components_by_pairs(6, np.array([[5, 3], [3, 1], [4, 2]])).tolist() == [0, 1, 2, 1, 2, 1]


def test_rows_are_connected_through_any_key_and_negative_codes_connect_nothing() -> None:
    encounters, twins = np.array([0, 0, 1, -1, -1, 2]), np.array([-1, 7, 7, -1, -1, -1])
    assert components_by_keys([encounters, twins]).tolist() == [0, 0, 0, 3, 4, 5]


def test_components_equal_a_search_by_hand_on_random_graphs() -> None:
    random = np.random.default_rng(0)
    for count in (1, 5, 40):
        pairs = random.integers(count, size=(count // 2, 2))
        parent = list(range(count))
        for one, other in pairs.tolist() * count:
            parent[one] = parent[other] = min(parent[one], parent[other])
        assert components_by_pairs(count, pairs).tolist() == parent
