"""Benchmark of discovery: clusters of photographs whose names are hidden, with a simulated reviewer.

The individuals are parted at random into two halves. Pair model and threshold (and with --whiten a whitening) are
learned on one half, the photographs of the other are clustered. Then a reviewer answers at most two pairs per
photograph, chosen by `next_questions`, by similarity or at random. ARI and AMI are those of scikit-learn against the
hidden names. The number of animals is estimated from few pairs, and the runs whose interval covers the truth are
counted.

python benchmarks/discovery.py photos flukes --local sift --cache /tmp/discovery

DATA are data sets in a format that whale_ray reads; without one, vectors are drawn: animals of one to many photographs
around random centers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from hidden_photographs import HiddenPhotographs, Pairs, drawn_animals, hide_names, read_photographs

from whale_ray.discovery.constraints import Constraints, link_photographs
from whale_ray.discovery.population_size import draw_population_sample, estimate_population
from whale_ray.discovery.question_queue import next_questions

ROUND = 20


def ask_gain(photos: HiddenPhotographs, labels: np.ndarray, constraints: Constraints, seed: int) -> Pairs:
    found = next_questions(photos.probabilities, labels, constraints, count=ROUND)
    return [(question.first, question.second) for question in found]


def ask_similar(photos: HiddenPhotographs, labels: np.ndarray, constraints: Constraints, seed: int) -> Pairs:
    first, second, values = photos.probabilities.candidates()
    return _undecided(first, second, np.argsort(-values, kind="stable"), constraints, len(labels))


def ask_random(photos: HiddenPhotographs, labels: np.ndarray, constraints: Constraints, seed: int) -> Pairs:
    first, second = np.triu_indices(len(labels), 1)
    order = np.random.default_rng(seed + len(constraints.different)).permutation(len(first))
    return _undecided(first, second, order, constraints, len(labels))


def _undecided(first: np.ndarray, second: np.ndarray, order: np.ndarray, constraints: Constraints, count: int) -> Pairs:
    links = link_photographs(constraints, count)
    found: Pairs = []
    for place in order:
        pair = int(first[place]), int(second[place])
        if not links.are_decided(*pair):
            found.append(pair)
        if len(found) == ROUND:
            break
    return found


STRATEGIES: dict[str, Callable[[HiddenPhotographs, np.ndarray, Constraints, int], Pairs]] = {
    "by gain": ask_gain,
    "most similar first": ask_similar,
    "random": ask_random,
}


def review(photos: HiddenPhotographs, strategy: str, seed: int) -> list[float]:
    """Return the ARI without answers and after 1/4, 1/2, 1 and 2 answers per photograph."""
    constraints, labels = Constraints(), photos.clusters()
    curve, marks = [photos.ari(labels)], [share * len(labels) for share in (0.25, 0.5, 1, 2)]
    while marks:
        pairs = STRATEGIES[strategy](photos, labels, constraints, seed)
        if pairs:
            constraints = photos.answer(pairs, constraints)
            labels = photos.clusters(constraints)
        asked = len(constraints.same) + len(constraints.different)
        while marks and (asked + ROUND > marks[0] or not pairs):
            curve.append(photos.ari(labels))
            marks.pop(0)
    return curve


def answer_sample(photos: HiddenPhotographs, seed: int) -> tuple[bool, float, float, int]:
    """Return whether the interval covers the truth, its half width and the error (shares of the truth), and pairs."""
    truth = len(np.unique(photos.individuals))
    sample = draw_population_sample(photos.probabilities, photos.clusters(), seed=seed)
    constraints = Constraints()
    while pairs := sample.questions(constraints, count=len(photos.individuals)):
        constraints = photos.answer(pairs, constraints)
    found = estimate_population(sample, constraints)
    assert found is not None
    asked = len(constraints.same) + len(constraints.different)
    half = (found.high - found.low) / 2 / truth
    return found.low <= truth <= found.high, half, found.count / truth - 1, asked


def main(
    data: Annotated[list[Path] | None, typer.Argument(help="Data sets; by default vectors are drawn")] = None,
    *,
    cache: Annotated[Path, typer.Option(help="Folder for embeddings and keypoints")] = Path("discovery-cache"),
    local: Annotated[str, typer.Option(help="Keypoints: none, sift or orb")] = "none",
    encoder: Annotated[str, typer.Option(help="Frozen encoder")] = "torchvision:mobilenet_v2",
    weights: Annotated[str, typer.Option(help="Its weights: pretrained or a file")] = "pretrained",
    embeddings: Annotated[Path | None, typer.Option(help="Take the vectors of embeddings.npz of a trial")] = None,
    whiten: Annotated[bool, typer.Option(help="Learn a whitening")] = False,
    guess: Annotated[bool, typer.Option(help="Use the model for photographs without any names")] = False,
    repeats: Annotated[int, typer.Option(help="Number of random halves of each data set")] = 5,
    seed: Annotated[int, typer.Option(help="Of the first half and of drawn vectors")] = 0,
    noise: Annotated[float, typer.Option(help="Spread of drawn photographs around their animal")] = 1.2,
    review_: Annotated[bool, typer.Option("--review/--no-review", help="Simulate a reviewer")] = True,
    intervals: Annotated[int, typer.Option(help="Number of estimates of the number of animals")] = 100,
) -> None:
    every: list[HiddenPhotographs] = []
    for number in range(seed, seed + repeats) if not data else ():
        every.append(hide_names(drawn_animals(200, number, noise), seed=number, whiten=False, guess=guess))
    for path in data or ():
        known = read_photographs(
            path, cache / path.name, encoder=encoder, weights=weights, embeddings=embeddings, local=local
        )
        every += [hide_names(known, seed=seed + number, whiten=whiten, guess=guess) for number in range(repeats)]
    print_clusters(every)
    for strategy in STRATEGIES if review_ else ():
        curves = np.array([review(photos, strategy, number) for number, photos in enumerate(every)])
        print(
            f"{strategy:20} ARI after 0, 1/4, 1/2, 1, 2 answers a photograph: {curves.mean(axis=0).round(3)}",
            flush=True,
        )
    if intervals:
        estimates = np.array([answer_sample(every[one % len(every)], seed + one) for one in range(intervals)])
        print(
            f"number of animals: interval covers in {estimates[:, 0].sum():.0f} of {intervals} runs; mean half width "
            f"{estimates[:, 1].mean():.2f}, error {estimates[:, 2].mean():+.2f} ± {estimates[:, 2].std():.2f} of the "
            f"truth; {estimates[:, 3].mean():.0f} pairs"
        )


def print_clusters(every: list[HiddenPhotographs]) -> None:
    rows = [photos.figures() for photos in every]
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in [*rows, {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}]:
        print("| " + " | ".join(f"{value:.3f}".removesuffix(".000") for value in row.values()) + " |", flush=True)


if __name__ == "__main__":
    typer.run(main)
