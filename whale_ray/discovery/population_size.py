"""Population size: the number of animals in a set of photographs, with an interval, from few answered pairs.

After Perez et al., "Human-in-the-loop visual re-ID for population size estimation", ECCV 2024: nested importance
sampling, of photographs first and of partners of each by similarity second. They average 1 / n over photographs, n
being the estimated number of photographs of the animal. Here the photographs have a fixed order, and the average is
over an indicator: the photograph is the first of its animal. Answers correct a model's guess of each indicator.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from whale_ray.discovery.constraints import Constraints, LinkedPhotographs, Pair, link_photographs
from whale_ray.discovery.pair_probabilities import PairProbabilities

FEWEST_DRAWS = 20
"""Settled draws below which there is no estimate."""
_GUESS = (0.02, 0.98)  # limits of the model's guesses
_UNIFORM = 0.7  # share of draws that ignore the model's guess
_UNIFORM_PARTNERS = 0.4  # share of sampled partners that ignore the probabilities
_MOST_MISSED = 5.0  # limit of the factor between missed and expected matches
_RESAMPLES = 1000
_WIDER = 1.25  # the bootstrap's interval is too narrow by this factor: docs/experiments/discovery.md


@dataclass(frozen=True)
class PopulationEstimate:
    """An estimated number of animals.

    Attributes:
        count: Estimated number of animals.
        low: Lower end of the 95 % interval.
        high: Upper end of the 95 % interval.
        pairs: Number of pairs that the sample needed answers for.
        draws: Number of settled draws of photographs.
    """

    count: float
    low: float
    high: float
    pairs: int
    draws: int


@dataclass(frozen=True)
class DrawnPhotograph:
    """A drawn photograph and its partners, all of them earlier in the sample's order.

    Attributes:
        photograph: The photograph.
        guess: The model's probability that it is the first of its animal.
        weight: 1 / (probability of the draw).
        closest: The most probable partners, most probable first.
        sampled: Partners sampled from the rest, with repetitions.
        sampled_weights: 1 / (probability of each sampled partner).
        rest: Expected number of matches among the rest.
    """

    photograph: int
    guess: float
    weight: float
    closest: tuple[int, ...]
    sampled: tuple[int, ...]
    sampled_weights: tuple[float, ...]
    rest: float


@dataclass(frozen=True)
class PopulationSample:
    """A random sample of photographs and partners that an estimate needs answers about.

    Attributes:
        position: Place of each photograph in the order, int64, shape (N,).
        guessed: Sum of the model's guesses over all photographs: the number of animals it expects.
        draws: The draws, in random order.
    """

    position: np.ndarray
    guessed: float
    draws: tuple[DrawnPhotograph, ...]

    def questions(self, constraints: Constraints, *, count: int) -> list[Pair]:
        """Return up to `count` pairs whose answers settle the next draws, at most one pair of each photograph.

        Args:
            constraints: Answers and names so far.
            count: Largest number of pairs.
        """
        links = link_photographs(constraints, len(self.position))
        pairs: dict[int, Pair] = {}
        for draw in self.draws:
            if len(pairs) == count:
                break
            partner = next(self._open_partners(draw, links), None)
            if partner is not None:
                pairs[draw.photograph] = (min(draw.photograph, partner), max(draw.photograph, partner))
        return list(dict.fromkeys(pairs.values()))

    def _open_partners(self, draw: DrawnPhotograph, links: LinkedPhotographs) -> Iterator[int]:
        """Yield the partners of a draw that need an answer; none if it is settled."""
        for partner in draw.closest:
            if links.are_same(draw.photograph, partner):
                return
            if not links.are_different(draw.photograph, partner):
                yield partner
        # All of the sampled ones, a match or not: they tell how many matches the closest ones miss.
        yield from (partner for partner in draw.sampled if not links.are_decided(draw.photograph, partner))

    def _has_earlier_match(self, draw: DrawnPhotograph, links: LinkedPhotographs) -> bool:
        """Return True if the links join a drawn photograph to an earlier one."""
        mates = links.component == links.component[draw.photograph]
        return bool((self.position[mates] < self.position[draw.photograph]).any())


def draw_population_sample(
    probabilities: PairProbabilities,
    labels: np.ndarray,
    *,
    draws: int = 100,
    closest: int = 4,
    sampled: int = 6,
    seed: int = 0,
) -> PopulationSample:
    """Return a sample of photographs and partners. Draw it before the answers that it is estimated from.

    The order of photographs has one photograph of each cluster first: most others then match one of these at once.

    Args:
        probabilities: Pair probabilities of N photographs.
        labels: Cluster of each photograph, int, shape (N,).
        draws: Number of draws of photographs, with repetitions.
        closest: Number of most probable partners of each.
        sampled: Number of partners sampled from the rest of each.
        seed: Of the draws. The same arguments give the same sample.
    """
    count = len(probabilities)
    position = _order(np.asarray(labels, dtype=np.int64))
    if not count:
        return PopulationSample(position, 0.0, ())
    generator = np.random.default_rng(seed)
    guesses = np.array([_guess(probabilities.row(row), position, row) for row in range(count)])
    chances = np.sqrt(guesses * (1 - guesses))
    chances = (1 - _UNIFORM) * chances / chances.sum() + _UNIFORM / count
    drawn = []
    for row in generator.choice(count, draws, p=chances / chances.sum()):
        earlier = np.flatnonzero(position < position[row])
        values = probabilities.row(row)[earlier].astype(np.float64)
        order = np.argsort(-values, kind="stable")
        near, rest = earlier[order[:closest]], order[closest:]
        places, weights = _sample(values[rest], sampled, generator)
        drawn.append(
            DrawnPhotograph(
                photograph=int(row),
                guess=float(guesses[row]),
                weight=float(1.0 / chances[row]),
                closest=tuple(near.tolist()),
                sampled=tuple(earlier[rest[places]].tolist()),
                sampled_weights=tuple(weights.tolist()),
                rest=float(values[rest].sum()),
            )
        )
    return PopulationSample(position, float(guesses.sum()), tuple(drawn))


def _order(labels: np.ndarray) -> np.ndarray:
    """Return the place of each photograph: first photographs of clusters, larger clusters first, then the others."""
    if not len(labels):
        return np.zeros(0, dtype=np.int64)
    is_later = np.ones(len(labels), dtype=bool)
    is_later[np.unique(labels, return_index=True)[1]] = False
    order = np.lexsort((np.arange(len(labels)), -np.bincount(labels)[labels], is_later))
    return np.argsort(order)


def _guess(values: np.ndarray, position: np.ndarray, row: int) -> float:
    """Return the model's probability that no earlier photograph shows the same animal as `row`."""
    earlier = np.minimum(values[position < position[row]].astype(np.float64), 0.999)
    return float(np.clip(np.exp(np.log1p(-earlier).sum()), *_GUESS))


def _sample(values: np.ndarray, size: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return places drawn with repetitions, mostly by probability, some uniformly, and 1 / (chance) of each."""
    if not len(values) or not size:
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    total = values.sum()
    by_probability = values / total if total > 0 else np.full(len(values), 1.0 / len(values))
    chances = (1 - _UNIFORM_PARTNERS) * by_probability + _UNIFORM_PARTNERS / len(values)
    chances = chances / chances.sum()
    places = generator.choice(len(values), size, p=chances)
    return places, 1.0 / chances[places]


def estimate_population(sample: PopulationSample, constraints: Constraints) -> PopulationEstimate | None:
    """Return the estimate from the settled draws; None if fewer than `FEWEST_DRAWS` are settled.

    Matches that the closest partners do not show are accounted for: sampled partners tell by which factor the true
    number of matches among the rest exceeds the model's. The interval is a bootstrap over the draws.

    Args:
        sample: The sample.
        constraints: Answers and names.
    """
    links = link_photographs(constraints, len(sample.position))
    settled = []
    for draw in sample.draws:  # up to the first open one: a draw that is settled sooner is no random one
        if next(sample._open_partners(draw, links), None) is not None:
            break
        settled.append(draw)
    if len(settled) < FEWEST_DRAWS:
        return None
    table = np.array([_outcome(draw, sample, links) for draw in settled])
    generator = np.random.default_rng(0)
    resamples = generator.integers(len(table), size=(_RESAMPLES, len(table)))
    counts = np.array([_count(table[rows], sample.guessed) for rows in resamples])
    count = _count(table, sample.guessed)
    low, high = np.percentile(counts, [2.5, 97.5])
    # Two draws of opposite sign stand for surprises that a small sample did not hold.
    unseen = 1.96 * np.sqrt(2.0) * min(draw.weight for draw in settled) / (len(settled) + 2)
    most = len(np.unique(links.component))
    pairs = {(draw.photograph, partner) for draw in settled for partner in (*draw.closest, *draw.sampled)}
    return PopulationEstimate(
        count=float(np.clip(count, 1, most)),
        low=float(np.clip(count - np.hypot(_WIDER * (count - low), unseen), 1, most)),
        high=float(np.clip(count + np.hypot(_WIDER * (high - count), unseen), 1, most)),
        pairs=len(pairs),
        draws=len(settled),
    )


def _outcome(draw: DrawnPhotograph, sample: PopulationSample, links: LinkedPhotographs) -> tuple[float, ...]:
    """Return a draw's indicator, guess, weight, expected rest, and matches found and expected among the rest."""
    is_first = not sample._has_earlier_match(draw, links)
    found = expected = 0.0
    closest_differ = all(links.are_different(draw.photograph, partner) for partner in draw.closest)
    if draw.sampled and closest_differ and all(links.are_decided(draw.photograph, other) for other in draw.sampled):
        matches = [links.are_same(draw.photograph, other) for other in draw.sampled]
        found, expected = float(np.mean(np.multiply(matches, draw.sampled_weights))), draw.rest
    return float(is_first), draw.guess, draw.weight, draw.rest, found, expected


def _count(table: np.ndarray, guessed: float) -> float:
    """Return the estimate from outcomes, shape (draws, 6)."""
    is_first, guess, weight, rest, found, expected = table.T
    missed = min(found.sum() / expected.sum(), _MOST_MISSED) if expected.sum() > 0 else 1.0
    return float(guessed + np.mean((is_first * np.exp(-missed * rest) - guess) * weight))
