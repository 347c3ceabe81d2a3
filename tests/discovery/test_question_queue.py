"""Question queue: undecided pairs whose answers change the clustering most."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

from whale_ray.discovery.clustering import cluster_photographs
from whale_ray.discovery.constraints import Constraints, Pair, link_photographs
from whale_ray.discovery.pair_model import fit_pair_model
from whale_ray.discovery.pair_probabilities import PairProbabilities, compare_photographs
from whale_ray.discovery.question_queue import next_questions


def symmetric(count: int, values: dict[Pair, float]) -> np.ndarray:
    matrix = np.zeros((count, count), dtype=np.float32)
    for (first, second), value in values.items():
        matrix[first, second] = matrix[second, first] = value
    return matrix


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array], ids=["dense", "sparse"])
def test_uncertain_pairs_of_large_clusters_come_first(form: type) -> None:
    groups = (range(4), range(4, 8))
    inside = {pair: 0.99 for group in groups for pair in itertools.combinations(group, 2)}
    probabilities = PairProbabilities(form(symmetric(10, {**inside, (1, 6): 0.5, (8, 9): 0.5, (0, 8): 0.02})))
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 3])
    found = next_questions(probabilities, labels, Constraints(), count=20)
    assert (found[0].first, found[0].second) == (1, 6)
    assert found[0].probability == pytest.approx(0.5)
    assert found[0].gain == max(question.gain for question in found)
    assert len(next_questions(probabilities, labels, Constraints(), count=1)) == 1


def test_gain_and_probable_change_take_turns() -> None:
    large = dict.fromkeys(itertools.combinations(range(20), 2), 0.9)
    small = {(20 + 2 * place, 21 + 2 * place): 0.2 + 0.1 * place for place in range(3)}
    labels = np.array([0] * 20 + [*range(1, 7)])
    found = next_questions(PairProbabilities(symmetric(26, {**large, **small})), labels, Constraints(), count=20)
    pairs = [(question.first, question.second) for question in found]
    by_gain, by_change = (sorted(found, key=lambda one: -getattr(one, name)) for name in ("gain", "change"))
    assert (found[0], found[1]) == (by_gain[0], by_change[0])
    assert pairs[1] == (24, 25), "two photographs that may be joined"
    assert found[1].gain < found[0].gain
    assert max(pairs.index(pair) for pair in small) <= 5, "they do not wait for all questions about the large cluster"


def test_a_doubtful_photograph_of_a_cluster_is_asked_about() -> None:
    probabilities = PairProbabilities(symmetric(4, {(0, 1): 0.99, (0, 2): 0.99, (1, 2): 0.99, (2, 3): 0.4}))
    found = next_questions(probabilities, np.zeros(4, dtype=np.int64), Constraints(), count=1)
    assert (found[0].first, found[0].second) == (2, 3)


def test_decided_and_implied_pairs_are_never_asked() -> None:
    generator = np.random.default_rng(0)
    matrix = np.triu(generator.random((12, 12)), 1).astype(np.float32)
    probabilities = PairProbabilities(matrix + matrix.T)
    constraints = Constraints(same=((0, 1), (1, 2)), different=((2, 3), (4, 5)), names={6: "a", 7: "b", 8: "a"})
    links = link_photographs(constraints, 12)
    labels = cluster_photographs(probabilities, threshold=0.5, constraints=constraints)
    found = next_questions(probabilities, labels, constraints, count=100)
    assert found
    assert not any(links.are_decided(question.first, question.second) for question in found)
    pairs = [(question.first, question.second) for question in found]
    assert len(set(pairs)) == len(pairs)
    assert all(first < second for first, second in pairs)


@pytest.mark.parametrize("count", [0, 1])
def test_without_two_photographs_there_is_no_question(count: int) -> None:
    probabilities = PairProbabilities(np.zeros((count, count), dtype=np.float32))
    assert next_questions(probabilities, np.zeros(count, dtype=np.int64), Constraints(), count=5) == []


@pytest.mark.integration
def test_a_reviewer_gains_more_than_by_asking_the_most_similar_pairs_first() -> None:
    def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.default_rng(seed)
        individuals = np.repeat(np.arange(40), generator.geometric(0.3, 40))
        centers = generator.normal(size=(40, 32))
        return centers[individuals] + 1.4 * generator.normal(size=(len(individuals), 32)), individuals.astype(str)

    model = fit_pair_model(*drawn(0))
    assert model is not None
    vectors, names = drawn(1)
    probabilities = compare_photographs(vectors, model)
    first, second, values = probabilities.candidates()
    by_similarity = np.stack([first, second], axis=1)[np.argsort(-values, kind="stable")]

    def review(by_gain: bool) -> list[float]:
        constraints, curve = Constraints(), []
        for _ in range(10):
            labels = cluster_photographs(probabilities, threshold=0.25, constraints=constraints)
            curve.append(float(adjusted_rand_score(names, labels)))
            if by_gain:
                found = next_questions(probabilities, labels, constraints, count=10)
                pairs = [(question.first, question.second) for question in found]
            else:
                links = link_photographs(constraints, len(names))
                pairs = [(int(one), int(two)) for one, two in by_similarity if not links.are_decided(one, two)][:10]
            same = tuple(pair for pair in pairs if names[pair[0]] == names[pair[1]])
            different = tuple(pair for pair in pairs if names[pair[0]] != names[pair[1]])
            constraints = Constraints((*constraints.same, *same), (*constraints.different, *different))
        return curve

    by_gain, most_similar = review(by_gain=True), review(by_gain=False)
    assert by_gain[-1] > by_gain[0] + 0.1
    assert by_gain[-1] > most_similar[-1]
