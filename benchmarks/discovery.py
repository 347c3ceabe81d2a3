"""Benchmark of discovery: clusters of photographs whose names are hidden, with a simulated reviewer.

The individuals are parted at random into two halves. Whitening, pair model and threshold are learned on one half, the
photographs of the other are clustered. Then a reviewer answers at most two pairs per photograph, chosen by
`next_questions`, by similarity or at random. ARI and AMI are those of scikit-learn against the hidden names. The
number of animals is estimated from few pairs, and the runs whose interval covers the truth are counted.

VECTORS is the embeddings.npz of a trial whose encoder was not trained on these photographs; without it, vectors are
drawn: animals of one to many photographs around random centers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

from whale_ray.discovery.cluster_threshold import learn_threshold
from whale_ray.discovery.clustering import cluster_photographs
from whale_ray.discovery.constraints import Constraints, link_photographs
from whale_ray.discovery.pair_model import fit_pair_model
from whale_ray.discovery.pair_probabilities import PairProbabilities, compare_photographs
from whale_ray.discovery.population_size import draw_population_sample, estimate_population
from whale_ray.discovery.question_queue import next_questions
from whale_ray.retrieval.local.evidence import gather_evidence
from whale_ray.retrieval.local.feature_store import LocalFeatureStore, load_features
from whale_ray.retrieval.search.whitening import fit_whitening

UNKNOWN = "new_whale"
ROUND = 20
Pairs = list[tuple[int, int]]


@dataclass(frozen=True)
class HiddenPhotographs:
    """Photographs whose names are hidden, and what was learned on others."""

    probabilities: PairProbabilities
    individuals: np.ndarray
    threshold: float

    def clusters(self, constraints: Constraints | None = None, threshold: float | None = None) -> np.ndarray:
        used = self.threshold if threshold is None else threshold
        return cluster_photographs(self.probabilities, threshold=used, constraints=constraints)

    def ari(self, labels: np.ndarray) -> float:
        return float(adjusted_rand_score(self.individuals, labels))

    def answer(self, pairs: Pairs, constraints: Constraints) -> Constraints:
        names = self.individuals
        same = tuple(pair for pair in pairs if names[pair[0]] == names[pair[1]])
        different = tuple(pair for pair in pairs if names[pair[0]] != names[pair[1]])
        return Constraints((*constraints.same, *same), (*constraints.different, *different))


def drawn_animals(animals: int, seed: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    individuals = np.repeat(np.arange(animals), generator.geometric(0.25, animals))
    centers = generator.normal(size=(animals, 32))
    return centers[individuals] + noise * generator.normal(size=(len(individuals), 32)), individuals.astype(str)


def read_vectors(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    stored = np.load(path)
    _, first = np.unique(stored["image"], return_index=True)
    first = first[stored["individual"][first] != UNKNOWN]
    views = stored["plain"][first].astype(np.float32) + stored["flip"][first].astype(np.float32)
    return views, stored["individual"][first], stored["image"][first]


def keypoint_scores(store: LocalFeatureStore, rows: np.ndarray) -> np.ndarray:
    names = [str(row) for row in rows]
    allowed = ~np.eye(len(rows), dtype=bool)
    return gather_evidence(store, rows, rows, names, verified=0, allowed=allowed).scores


def hide_names(
    vectors: np.ndarray, individuals: np.ndarray, *, seed: int, whiten: bool, store: LocalFeatureStore | None
) -> HiddenPhotographs:
    """Learn on one half of the individuals and return the photographs of the other."""
    names = np.random.default_rng(seed).permutation(np.unique(individuals))
    hidden = np.isin(individuals, names[: len(names) // 2])
    learned = np.flatnonzero(~hidden)
    if whiten:  # on a half of the half: the pair model must see animals that the whitening has not seen
        third = np.isin(individuals, names[len(names) // 2 :][::2])
        whitening = fit_whitening(vectors[third], individuals[third], kind="learned", unknown_label=UNKNOWN)
        vectors = whitening.shortened(256).apply(vectors).astype(np.float32)
        learned = np.flatnonzero(~hidden & ~third)
    rows = np.flatnonzero(hidden)
    local = None if store is None else (keypoint_scores(store, learned), keypoint_scores(store, rows))
    model = fit_pair_model(vectors[learned], individuals[learned], local_scores=local[0] if local else None)
    assert model is not None
    threshold = learn_threshold(vectors[learned], individuals[learned], local_scores=local[0] if local else None)
    probabilities = compare_photographs(vectors[rows], model, local_scores=local[1] if local else None)
    return HiddenPhotographs(probabilities, individuals[rows], threshold.threshold)


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
    vectors: Annotated[Path | None, typer.Argument(help="embeddings.npz of a trial; by default drawn")] = None,
    *,
    features: Annotated[Path | None, typer.Option(help="Stored SIFT features of all its photographs")] = None,
    repeats: Annotated[int, typer.Option(help="Number of random halves")] = 5,
    noise: Annotated[float, typer.Option(help="Spread of drawn photographs around their animal")] = 1.2,
    intervals: Annotated[int, typer.Option(help="Number of estimates of the number of animals")] = 100,
) -> None:
    known = None if vectors is None else read_vectors(vectors)
    store = None if features is None or known is None else stored_rows(load_features(features), vectors, known[2])
    every = [
        hide_names(*drawn_animals(200, seed, noise), seed=seed, whiten=False, store=None)
        if known is None
        else hide_names(known[0], known[1], seed=seed, whiten=True, store=store)
        for seed in range(repeats)
    ]
    for photos in every:
        labels, truth = photos.clusters(), photos.individuals
        hindsight = max(photos.ari(photos.clusters(threshold=step)) for step in np.linspace(0.02, 0.98, 49))
        print(
            f"{len(truth)} photographs of {len(np.unique(truth))} animals: {labels.max() + 1} clusters at "
            f"{photos.threshold:.2f}, ARI {photos.ari(labels):.3f}, "
            f"AMI {adjusted_mutual_info_score(truth, labels):.3f}, "
            f"hindsight ARI {hindsight:.3f}, singletons ARI {photos.ari(np.arange(len(truth))):.3f}"
        )
    for strategy in STRATEGIES:
        curves = np.array([review(photos, strategy, seed) for seed, photos in enumerate(every)])
        print(
            f"{strategy:20} ARI after 0, 1/4, 1/2, 1, 2 answers a photograph: {curves.mean(axis=0).round(3)}",
            flush=True,
        )
    estimates = np.array([answer_sample(every[seed % repeats], seed) for seed in range(intervals)])
    if intervals:
        print(
            f"number of animals: interval covers in {estimates[:, 0].sum():.0f} of {intervals} runs; mean half width "
            f"{estimates[:, 1].mean():.2f}, error {estimates[:, 2].mean():+.2f} ± {estimates[:, 2].std():.2f} of the "
            f"truth; {estimates[:, 3].mean():.0f} pairs"
        )


def stored_rows(store: LocalFeatureStore, vectors: Path | None, images: np.ndarray) -> LocalFeatureStore:
    """Return the features of the named photographs: those of the store are of all, sorted by file name."""
    assert vectors is not None
    return store.subset(np.searchsorted(np.unique(np.load(vectors)["image"]), images))


if __name__ == "__main__":
    typer.run(main)
