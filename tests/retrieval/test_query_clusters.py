import numpy as np
import pytest

from whale_ray.retrieval.evaluation.query_clusters import (
    bootstrap_interval,
    paired_interval,
    query_clusters,
    query_folds,
)

NAMES = np.array(["w_1", "w_1", "w_2", "new", "new", "new", "w_3"])
IMAGES = np.array(list("abcdefg"))
GROUPS = np.array(["", "g1", "g1", "g2", "g2", "", ""])


def clusters(groups=GROUPS):
    return query_clusters(NAMES, images=IMAGES, groups=groups, unknown_label="new")


def test_a_cluster_is_an_individual_or_the_group_or_image_of_an_unknown_one():
    assert [name.split(":")[1] for name in clusters()] == ["w_1", "w_1", "w_2", "g2", "g2", "f", "w_3"]
    assert len(set(clusters(groups=None))) == 6


def test_an_individual_a_group_and_an_image_of_one_name_are_three_clusters():
    names, groups = np.array(["x", "new", "new"]), np.array(["", "x", ""])
    found = query_clusters(names, images=np.array(["a", "b", "x"]), groups=groups, unknown_label="new")
    assert len(set(found)) == 3


def test_folds_hold_individuals_and_groups_whole():
    random = np.random.default_rng(0)
    names = np.array([f"w_{name}" for name in random.integers(0, 60, 300)])
    groups = np.array([f"g{group}" if group < 20 else "" for group in random.integers(0, 500, 300)])
    images = np.array([f"{place}.jpg" for place in range(300)])
    folds = query_folds(names, images=images, groups=groups, seed=3)
    for labels in (names, groups[groups != ""]):
        chosen = folds if labels is names else folds[groups != ""]
        for label in set(labels):
            assert len(set(chosen[labels == label])) == 1
    assert set(folds) == {0, 1, 2, 3, 4}


def test_folds_are_even_and_follow_the_seed_and_not_the_order_of_the_queries():
    images = np.array([f"{place:03d}.jpg" for place in range(103)])
    names = np.array([f"w_{place % 40}" for place in range(103)])
    folds = query_folds(names, images=images, groups=None, seed=1)
    assert np.ptp(np.bincount(folds)) <= 3
    order = np.random.default_rng(0).permutation(103)
    shuffled = query_folds(names[order], images=images[order], groups=None, seed=1)
    assert shuffled.tolist() == folds[order].tolist()
    assert query_folds(names, images=images, groups=None, seed=2).tolist() != folds.tolist()


def test_few_queries_leave_folds_empty():
    assert query_folds(np.array(["w_1", "w_1"]), images=np.array(["a", "b"]), groups=None).tolist() == [0, 0]
    assert len(query_folds(np.array([], dtype=str), images=np.array([], dtype=str), groups=None)) == 0


def test_the_interval_is_that_of_a_loop_over_resampled_clusters():
    random = np.random.default_rng(0)
    names = np.repeat(np.arange(40), random.integers(1, 6, 40))
    values = (random.random(len(names)) < 0.6).astype(float)
    counted = random.random(len(names)) < 0.9
    low, high = bootstrap_interval(values[:, None], counted[:, None], names)
    means = []
    for _ in range(4000):
        rows = np.concatenate([np.flatnonzero(names == name) for name in random.integers(0, 40, 40)])
        means.append(values[rows][counted[rows]].mean())
    np.testing.assert_allclose([low[0], high[0]], np.percentile(means, [2.5, 97.5]), atol=0.02)


def test_correlated_queries_of_one_individual_widen_the_interval():
    values = np.repeat([0.0, 1.0] * 10, 20)[:, None]
    counted = np.ones(values.shape, dtype=bool)
    by_individual = np.subtract(*bootstrap_interval(values, counted, np.repeat(np.arange(20), 20)))
    by_image = np.subtract(*bootstrap_interval(values, counted, np.arange(400)))
    assert by_individual < 3 * by_image < 0


def test_one_cluster_has_no_interval():
    low, high = bootstrap_interval(np.ones((3, 1)), np.ones((3, 1), dtype=bool), np.zeros(3))
    assert np.isnan([low[0], high[0]]).all()


def test_equal_scores_are_not_told_apart_but_a_constant_gain_is():
    values = np.random.default_rng(0).random(50)
    assert paired_interval(values, values, np.arange(50)) == (0.0, 0.0)
    assert paired_interval(values + 0.1, values, np.arange(50)) == pytest.approx((0.1, 0.1))
