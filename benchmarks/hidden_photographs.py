"""Photographs whose names are hidden from a discovery, and what was learned on photographs of other animals."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, average_precision_score, log_loss

from whale_ray.data.catalog import read_catalog
from whale_ray.discovery.cluster_threshold import DEFAULT_THRESHOLD, learn_threshold
from whale_ray.discovery.clustering import cluster_photographs
from whale_ray.discovery.constraints import Constraints
from whale_ray.discovery.pair_model import default_pair_model, fit_pair_model
from whale_ray.discovery.pair_probabilities import PairProbabilities, compare_photographs
from whale_ray.discovery.photographs.discovery_encoder import open_frozen_encoder
from whale_ray.discovery.photographs.keypoint_scores import score_keypoints
from whale_ray.discovery.photographs.photograph_embeddings import embed_photographs
from whale_ray.retrieval.search.whitening import fit_whitening

UNKNOWN = "new_whale"
Pairs = list[tuple[int, int]]


@dataclass(frozen=True)
class NamedPhotographs:
    """Photographs with names: vectors (N, D), individuals (N,) and keypoint scores (N, N)."""

    vectors: np.ndarray
    individuals: np.ndarray
    scores: np.ndarray | None = None

    def part(self, rows: np.ndarray) -> NamedPhotographs:
        scores = None if self.scores is None else self.scores[np.ix_(rows, rows)]
        return NamedPhotographs(self.vectors[rows], self.individuals[rows], scores)


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

    def figures(self) -> dict[str, float]:
        """Return the scores of the clusters and of the pair probabilities."""
        labels, count = self.clusters(), len(self.individuals)
        upper = np.triu_indices(count, 1)
        same = self.individuals[upper[0]] == self.individuals[upper[1]]
        values = np.asarray(self.probabilities.matrix)[upper].astype(np.float64)
        prior = log_loss(same, np.full(len(same), same.mean()))
        return {
            "photographs": count,
            "animals": len(np.unique(self.individuals)),
            "clusters": int(labels.max()) + 1,
            "threshold": self.threshold,
            "ARI": self.ari(labels),
            "AMI": float(adjusted_mutual_info_score(self.individuals, labels)),
            "hindsight ARI": max(self.ari(self.clusters(threshold=step)) for step in np.linspace(0.02, 0.98, 49)),
            "singletons AMI": float(adjusted_mutual_info_score(self.individuals, np.arange(count))),
            "pairs AP": float(average_precision_score(same, values)),
            "pairs log loss / prior": log_loss(same, np.clip(values, 1e-7, 1 - 1e-7)) / prior,
        }


def drawn_animals(animals: int, seed: int, noise: float) -> NamedPhotographs:
    """Return vectors scattered around random centers."""
    generator = np.random.default_rng(seed)
    individuals = np.repeat(np.arange(animals), generator.geometric(0.25, animals))
    centers = generator.normal(size=(animals, 32))
    vectors = centers[individuals] + noise * generator.normal(size=(len(individuals), 32))
    return NamedPhotographs(vectors, individuals.astype(str))


def read_photographs(
    data: Path, cache: Path, *, encoder: str, weights: str, embeddings: Path | None, local: str
) -> NamedPhotographs:
    """Return the named photographs of a data set: vectors of a frozen encoder or of a trial, and keypoint scores."""
    catalog = read_catalog(data)
    rows = np.flatnonzero(catalog.table["individual"].to_numpy() != UNKNOWN)
    images = catalog.table["image"].to_numpy()[rows]
    cache.mkdir(parents=True, exist_ok=True)
    if embeddings is None:
        opened, fingerprint = open_frozen_encoder(encoder, weights=weights)
        found = embed_photographs(catalog, opened, model=fingerprint, path=cache / "embeddings.npz")
        vectors = found.vectors[np.searchsorted(found.rows, rows)]
    else:
        stored = np.load(embeddings)
        order = dict(zip(stored["image"].tolist(), range(len(stored["image"])), strict=True))
        places = [order[image] for image in images]
        vectors = stored["plain"][places].astype(np.float32) + stored["flip"][places].astype(np.float32)
    scores = None if local == "none" else score_keypoints(catalog, rows, kind=local, folder=cache / local)
    return NamedPhotographs(vectors, catalog.table["individual"].to_numpy().astype(str)[rows], scores)


def hide_names(known: NamedPhotographs, *, seed: int, whiten: bool, guess: bool) -> HiddenPhotographs:
    """Learn on one half of the individuals and return the photographs of the other.

    whiten: learn a whitening on a half of the half: the pair model must see animals that the whitening has not seen.
    guess: use the model for photographs without any names.
    """
    names = np.random.default_rng(seed).permutation(np.unique(known.individuals))
    hidden = np.isin(known.individuals, names[: len(names) // 2])
    learned = ~hidden
    if whiten:
        third = np.isin(known.individuals, names[len(names) // 2 :][::2])
        vectors, whose = known.vectors[third], known.individuals[third]
        whitening = fit_whitening(vectors, whose, kind="learned", unknown_label=UNKNOWN).shortened(256)
        known = NamedPhotographs(whitening.apply(known.vectors).astype(np.float32), known.individuals, known.scores)
        learned = ~hidden & ~third
    target, source = known.part(np.flatnonzero(hidden)), known.part(np.flatnonzero(learned))
    if guess:
        model, threshold = default_pair_model(target.vectors, local_scores=target.scores), DEFAULT_THRESHOLD
    else:
        fitted = fit_pair_model(source.vectors, source.individuals, local_scores=source.scores)
        assert fitted is not None
        model = fitted
        threshold = learn_threshold(source.vectors, source.individuals, local_scores=source.scores).threshold
    probabilities = compare_photographs(target.vectors, model, local_scores=target.scores)
    return HiddenPhotographs(probabilities, target.individuals, threshold)
