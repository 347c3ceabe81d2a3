"""Question queue: the pairs of photographs whose answer changes the clustering most."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np

from whale_ray.discovery.constraints import Constraints, LinkedPhotographs, link_photographs
from whale_ray.discovery.pair_probabilities import PairProbabilities


@dataclass(frozen=True)
class Question:
    """A pair of photographs that a person should compare.

    Attributes:
        first: The smaller photograph.
        second: The larger photograph.
        probability: Probability that both show the same animal, 0 to 1.
        gain: Expected number of pairs of photographs that the answer moves into or out of one cluster.
        change: Probability that the answer changes the clustering, 0 to 1: that two clusters are joined, or a part of
            a cluster is parted from the rest.
    """

    first: int
    second: int
    probability: float
    gain: float
    change: float = 0.0


def next_questions(
    probabilities: PairProbabilities, labels: np.ndarray, constraints: Constraints | None = None, *, count: int
) -> list[Question]:
    """Return up to `count` undecided pairs, alternately by the largest expected gain and the most probable change.

    The gain alone prefers large clusters, whose pairs are many, even where nearly every answer confirms them. The
    probable changes find the small clusters, each with few answers.

    Two clusters are one question, about their most probable pair: "same" joins them. A photograph and the rest of
    its cluster are one question: "different" parts them. A pair that was answered, or follows from answers and
    names, is never asked; neither are two questions about the same two clusters at once.

    Args:
        probabilities: Pair probabilities of N photographs.
        labels: Cluster of each photograph, int, shape (N,), 0 to the number of clusters less 1.
        constraints: Answers and names so far.
        count: Largest number of questions.
    """
    links = link_photographs(constraints or Constraints(), len(probabilities))
    labels = np.asarray(labels, dtype=np.int64)
    found = [*_joining(probabilities, labels, links), *_parting(probabilities, labels, links)]
    by_gain = sorted(found, key=lambda question: (-question.gain, question.first, question.second))
    by_change = sorted(found, key=lambda question: (-question.change, question.first, question.second))
    best: dict[tuple[int, int], Question] = {}
    for question in chain.from_iterable(zip(by_gain, by_change, strict=True)):
        best.setdefault((question.first, question.second), question)
    return list(best.values())[:count]


def _joining(probabilities: PairProbabilities, labels: np.ndarray, links: LinkedPhotographs) -> Iterator[Question]:
    """Yield one question for each two clusters with candidate pairs."""
    first, second, values = probabilities.candidates(1e-3)
    across = labels[first] != labels[second]
    first, second, values = first[across], second[across], values[across]
    if not len(first):
        return
    low, high = np.minimum(labels[first], labels[second]), np.maximum(labels[first], labels[second])
    keys = low * (int(labels.max()) + 1) + high
    # Mean probability x product of the sizes is the sum of the probabilities. The largest one instead would ask large
    # clusters about each other again and again.
    _, inverse = np.unique(keys, return_inverse=True)
    totals = np.bincount(inverse, weights=values)[inverse]
    order = np.lexsort((second, first, -values, keys))
    for place in order[np.unique(keys[order], return_index=True)[1]]:
        one, other, value = int(first[place]), int(second[place]), float(values[place])
        if not links.are_decided(one, other):
            yield Question(one, other, value, float(totals[place]), value)


def _parting(probabilities: PairProbabilities, labels: np.ndarray, links: LinkedPhotographs) -> Iterator[Question]:
    """Yield a question for each linked group that a cluster holds beside others."""
    order = np.argsort(labels, kind="stable")
    for rows in np.split(order, np.cumsum(np.bincount(labels))[:-1]) if len(labels) else ():
        groups = links.component[rows]
        for group in np.unique(groups) if len(np.unique(groups)) > 1 else ():
            inside, rest = rows[groups == group], rows[groups != group]
            block = probabilities.block(inside, rest)
            place, other = np.unravel_index(int(block.argmax()), block.shape)
            one, two = sorted((int(inside[place]), int(rest[other])))
            if not links.are_decided(one, two):
                change = 1.0 - float(block.mean())
                yield Question(one, two, float(block.max()), change * len(inside) * len(rest), change)
