import itertools

import numpy as np
import pytest

from whale_ray.retrieval.evaluation.metrics import (
    average_precisions,
    chance_of_image_recall,
    chance_of_map,
    chance_of_recall,
    find_ranks,
    recall_at,
)
from whale_ray.retrieval.evaluation.thresholds.best_thresholds import best_of_settings
from whale_ray.retrieval.evaluation.thresholds.threshold_steps import best_thresholds, threshold_steps


def test_recall_is_one_when_every_nearest_image_is_the_same_individual():
    ranks = find_ranks(np.array([[4, 4, 2], [2, 4, 4]]), np.array([4, 2]))
    assert recall_at(ranks, np.array([True, True]), 1) == 1.0


def test_a_query_that_has_no_answer_has_rank_zero_and_is_not_counted():
    ranks = find_ranks(np.array([[4, 2], [2, 4], [-1, -1]]), np.array([2, -1, -1]))
    assert ranks.tolist() == [2, 0, 0]
    assert recall_at(ranks, np.array([True, False, False]), 2) == 1.0


def test_recall_without_a_known_query_is_absent():
    assert recall_at(np.array([0, 0]), np.array([False, False]), 1) is None


def test_a_cutoff_beyond_the_gallery_counts_all_images():
    ranks = find_ranks(np.array([[0, 1], [1, 0]]), np.array([1, 1]))
    assert recall_at(ranks, np.array([True, True]), 32) == 1.0


def test_precision_is_one_over_the_place_among_five_labels():
    cosines = np.full((6, 6), 0.9)
    ranks = np.array([1, 2, 3, 4, 5, 6])
    found = average_precisions(cosines, ranks, np.zeros(6, dtype=bool), threshold=0.5)
    assert found.tolist() == [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 0]


@pytest.mark.parametrize(
    ("cosines", "rank", "new", "expected"),
    [
        ([0.9, 0.8, 0.7, 0.6, 0.5], 1, False, 1.0),
        ([0.3, 0.2, 0.1, 0.1, 0.1], 1, False, 0.5),  # the unknown one stands before it
        ([0.9, 0.3, 0.9, 0.9, 0.9], 5, False, 0.0),  # pushed out of the five
        ([0.9, 0.9, 0.9, 0.9, 0.3], 4, False, 0.25),
        ([0.3, 0.2, 0.1, 0.1, 0.1], 0, True, 1.0),
        ([0.9, 0.9, 0.9, 0.9, 0.3], 0, True, 0.2),
        ([0.9, 0.9, 0.9, 0.9, 0.9], 0, True, 0.0),
        ([0.9, 0.3, np.nan, np.nan, np.nan], 0, True, 0.5),
        ([0.9, 0.9, np.nan, np.nan, np.nan], 0, True, 0.0),
        ([0.3, 0.3, 0.3, 0.3, 0.3], 0, False, 0.0),  # named, but not in the gallery
    ],
)
def test_the_unknown_label_shifts_later_candidates(cosines, rank, new, expected):
    found = average_precisions(np.array([cosines]), np.array([rank]), np.array([new]), threshold=0.5)
    assert found.tolist() == [expected]


def answer_of(cosines, candidates, threshold):
    """Kaggle's answer in plain Python: five labels."""
    labels, entered = [], False
    for cosine, candidate in zip(cosines, candidates, strict=True):
        if cosine < threshold and not entered:
            labels.append("new")
            entered = True
        labels.append(candidate)
    return labels[:5]


def draw_answers(random, queries, individuals):
    cosines = np.round(random.uniform(-1, 1, (queries, individuals)), 1)
    cosines[::2] = -np.sort(-cosines[::2], axis=1)  # with a vote, cosines need not fall
    truth = random.integers(-1, individuals, queries)
    new = (truth < 0) & (random.random(queries) < 0.7)
    candidates = np.array([random.permutation(individuals) for _ in range(queries)])
    return cosines, candidates, truth, new


def plain_map(cosines, candidates, truth, new, threshold):
    scores = []
    for row, named, right, unknown in zip(cosines.tolist(), candidates.tolist(), truth, new, strict=True):
        wanted = "new" if unknown else right
        labels = answer_of(row, named, threshold)
        scores.append(1 / (labels.index(wanted) + 1) if wanted in labels else 0.0)
    return sum(scores) / len(scores)


@pytest.mark.parametrize(("seed", "individuals"), list(itertools.product(range(4), (1, 3, 5, 9))))
def test_map_and_its_best_threshold_agree_with_plain_python(seed, individuals):
    cosines, candidates, truth, new = draw_answers(np.random.default_rng(seed), 60, individuals)
    ranks = find_ranks(candidates, truth)
    for threshold in (-1.0, -0.35, 0.2, 0.75, 2.0):
        found = average_precisions(cosines, ranks, new, threshold=threshold).mean()
        assert found == pytest.approx(plain_map(cosines, candidates, truth, new, threshold), abs=1e-9)
    thresholds, sums = best_thresholds(threshold_steps(cosines, ranks, new), np.ones((1, 60), dtype=bool))
    tried = [plain_map(cosines, candidates, truth, new, threshold) for threshold in np.arange(-1.05, 1.1, 0.1)]
    assert sums[0] / 60 / 60 == pytest.approx(max(tried), abs=1e-9)
    found = average_precisions(cosines, ranks, new, threshold=float(thresholds[0])).mean()
    assert found == pytest.approx(max(tried), abs=1e-9)


def test_the_threshold_is_the_middle_of_the_widest_best_range():
    cosines = np.array([[0.9, 0.1], [0.4, 0.1], [0.2, 0.1]])
    new = np.array([False, True, True])
    thresholds, sums = best_thresholds(threshold_steps(cosines, np.array([1, 0, 0]), new), np.ones((1, 3), dtype=bool))
    assert thresholds.tolist() == pytest.approx([0.65])
    assert sums.tolist() == [180]


def test_each_group_of_queries_has_its_own_threshold():
    cosines = np.array([[0.9, 0.1], [0.4, 0.1], [0.6, 0.1], [0.2, 0.1]])
    new = np.array([False, True, False, True])
    groups = np.array([[True, True, False, False], [False, False, True, True]])
    thresholds, _ = best_thresholds(threshold_steps(cosines, np.array([1, 0, 1, 0]), new), groups)
    assert thresholds.tolist() == pytest.approx([0.65, 0.4])


def test_a_threshold_can_lie_above_a_cosine_of_one():
    cosines = np.array([[1.0, 0.5]])
    steps = threshold_steps(cosines, np.array([0]), np.array([True]))
    thresholds, sums = best_thresholds(steps, np.array([[True]]))
    assert thresholds[0] > 1.0
    assert sums.tolist() == [60]


def test_an_empty_ranking_has_no_threshold():
    steps = threshold_steps(np.zeros((2, 0)), np.array([0, 0]), np.array([True, False]))
    thresholds, sums = best_thresholds(steps, np.ones((1, 2), dtype=bool))
    assert thresholds.tolist() == [0.0]
    assert sums.tolist() == [0]


@pytest.mark.parametrize(("queries", "new_share"), [(40, 0.3), (40, 0.0), (40, 1.0), (1, 1.0), (0, 0.0)])
def test_the_thresholds_of_many_settings_are_those_of_each_alone(queries, new_share):
    random = np.random.default_rng(queries)
    new = random.random(queries) < new_share
    cosines = np.sort(random.integers(0, 12, (30, queries, 5)) / 10, axis=2)[:, :, ::-1].copy()  # coarse: ties
    cosines[random.random(cosines.shape) < 0.1] = np.nan
    ranks = random.integers(0, 9, (30, queries)) * ~new
    thresholds, sums = best_of_settings(cosines, ranks, new)
    for place in range(30):
        alone = best_thresholds(threshold_steps(cosines[place], ranks[place], new), np.ones((1, queries), dtype=bool))
        assert (thresholds[place], sums[place]) == (alone[0][0], alone[1][0])


@pytest.mark.parametrize("cutoff", [1, 2, 3, 5, 8])
def test_chance_is_the_mean_over_every_order_of_the_gallery(cutoff):
    labels = [0, 0, 1, 2, 2]
    image_hits = [0 in order[:cutoff] for order in itertools.permutations(labels)]
    assert chance_of_image_recall(np.array([2]), 5, cutoff) == pytest.approx(np.mean(image_hits))
    hits = [0 in order[:cutoff] for order in itertools.permutations(range(3))]
    assert chance_of_recall(3, cutoff) == pytest.approx(np.mean(hits))


@pytest.mark.parametrize("individuals", [1, 3, 6])
def test_chance_of_map_is_the_mean_over_every_order_of_individuals(individuals):
    places = [order.index(0) + 1 for order in itertools.permutations(range(individuals))]
    expected = np.mean([1 / place if place <= 5 else 0.0 for place in places])
    assert chance_of_map(individuals, 0.5) == pytest.approx(0.5 * expected)
