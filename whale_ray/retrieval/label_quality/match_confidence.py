"""Confidence that two photographs show the same individual, learned from the photographs themselves.

Photographs whose own individual is nearest show what a match looks like; the same photographs without their individual
show what the nearest other individual looks like. A logistic regression on cosine and lead gives a likelihood ratio;
with prior odds of one wrong label in twenty it becomes the confidence. The scale of an encoder's cosines therefore does
not matter. Each photograph is left out of what judges it, as in confident learning (Northcutt et al., JAIR 2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from whale_ray.retrieval.label_quality.nearest_pairs import NOBODY, row_chunks
from whale_ray.retrieval.search.gallery_index import GalleryIndex

FEWEST = 10  # photographs that are known by their own individual, below which nothing can be learned
UNKNOWN = "\0unknown"  # the part of the scale that photographs of unknown animals are judged by
_PRIOR_ODDS = 0.05 / 0.95


@dataclass(frozen=True)
class LabelledVectors:
    """The photographs: unit vectors, float32, shape (N, D), and arrays of shape (N,)."""

    vectors: np.ndarray
    images: np.ndarray
    individuals: np.ndarray
    parts: np.ndarray
    named: np.ndarray


@dataclass(frozen=True)
class NeighborEvidence:
    """Evidence of each photograph's neighbors, itself left out; -inf if there is none.

    Attributes:
        index: The gallery.
        own: Cosine to the nearest other photograph of the same individual.
        own_score: Mean of the two nearest.
        best: Code of the other individual with the largest score, the mean of its two nearest.
        score: That score.
        third: Largest cosine to any further individual.
        toward: Mean over an individual's photographs of the score of each individual, shape (C, C).
    """

    index: GalleryIndex
    own: np.ndarray
    own_score: np.ndarray
    best: np.ndarray
    score: np.ndarray
    third: np.ndarray
    toward: np.ndarray

    @property
    def rivals(self) -> np.ndarray:
        """Return the largest cosine to any individual but the best other one."""
        return np.asarray(np.maximum(self.third, self.own))

    @property
    def strangers(self) -> np.ndarray:
        """Return the largest evidence for any individual but its own."""
        return np.asarray(np.maximum(self.third, self.score))

    @property
    def recognised(self) -> np.ndarray:
        """Return whether the own individual is nearest, by two photographs."""
        found = np.isfinite(self.own_score) & np.isfinite(self.score) & np.isfinite(self.third)
        return np.asarray(found & (self.own_score > self.strangers))

    def candidates(self, rows: LabelledVectors) -> np.ndarray:
        """Named photographs to which a stranger is nearer than their own individual."""
        return np.asarray(rows.named & (self.score > self.own))


def gather_evidence(rows: LabelledVectors, trusted: np.ndarray) -> NeighborEvidence:
    """Return the evidence among photographs that are named and trusted.

    Args:
        rows: The photographs.
        trusted: bool, shape (N,).
    """
    gallery = np.flatnonzero(rows.named & trusted)
    index = GalleryIndex(rows.vectors[gallery], rows.individuals[gallery], rounded=False)
    place = np.full(len(rows.images), -1)
    place[gallery[index.rows]] = np.arange(len(gallery))
    own_code = index.codes_of(rows.individuals)
    own, own_score, score, third = (np.full(len(rows.images), NOBODY) for _ in range(4))
    best = np.full(len(rows.images), -1)
    toward = np.zeros((len(index.names), len(index.names)))
    for part in row_chunks(len(rows.images), len(index)):
        cosines = (rows.vectors[part] @ index.vectors.T).astype(np.float64)
        here, code, lines = place[part], own_code[part], np.arange(part.stop - part.start)
        cosines[lines[here >= 0], here[here >= 0]] = NOBODY
        first, mean = _first_and_mean(cosines, index)
        np.add.at(toward, code[code >= 0], np.where(np.isfinite(mean), mean, first)[code >= 0])
        known = lines[code >= 0]
        own[part][known], own_score[part][known] = first[known, code[known]], mean[known, code[known]]
        first[known, code[known]] = mean[known, code[known]] = NOBODY
        best[part] = mean.argmax(axis=1)
        score[part] = mean[lines, best[part]]
        first[lines, best[part]] = NOBODY
        third[part] = first.max(axis=1)
    counts = np.bincount(own_code[own_code >= 0], minlength=len(index.names))
    return NeighborEvidence(index, own, own_score, best, score, third, toward / np.maximum(counts, 1)[:, None])


def _first_and_mean(cosines: np.ndarray, index: GalleryIndex) -> tuple[np.ndarray, np.ndarray]:
    """(q, C): the greatest cosine to each individual, and the mean of the two greatest; -inf without two."""
    first = np.maximum.reduceat(cosines, index.starts, axis=1)
    is_first = cosines == first[:, index.codes]
    twice = np.add.reduceat(is_first, index.starts, axis=1, dtype=np.int64) > 1
    second = np.maximum.reduceat(np.where(is_first, NOBODY, cosines), index.starts, axis=1)
    return first, (first + np.where(twice, first, second)) / 2


@dataclass(frozen=True)
class MatchConfidence:
    """Weights (intercept, cosine, lead) of each part, and of all together under ""."""

    weights: dict[str, np.ndarray]

    @classmethod
    def learned(cls, seen: NeighborEvidence, rows: LabelledVectors) -> MatchConfidence | None:
        """Fit on the recognised photographs; None if there are too few.

        Args:
            seen: The evidence.
            rows: The photographs.
        """
        masks = {"": seen.recognised} | {part: seen.recognised & (rows.parts == part) for part in np.unique(rows.parts)}
        fitted = {part: _fit(seen, *[np.flatnonzero(mask)] * 2) for part, mask in masks.items() if mask.sum() >= FEWEST}
        if "" not in fitted:
            return None
        # of unknown animals most are unknown indeed: their nearest individuals are the strangers to learn from
        unknown = np.flatnonzero(~rows.named & np.isfinite(seen.score) & np.isfinite(seen.third))
        enough = len(unknown) >= FEWEST
        return cls(fitted | {UNKNOWN: _fit(seen, np.flatnonzero(seen.recognised), unknown) if enough else fitted[""]})

    def confidence(self, score: np.ndarray, rivals: np.ndarray, parts: np.ndarray | None = None) -> np.ndarray:
        """Return the confidence that a score is of the same animal, shape (n,).

        Args:
            score: Shape (n,).
            rivals: Score of the next individual, shape (n,).
            parts: Part of each row, shape (n,).
        """
        parts = np.full(len(score), "") if parts is None else parts
        features = _features(np.nan_to_num(score, neginf=-1.0), np.nan_to_num(rivals, neginf=-1.0))
        weights = np.array([self.weights.get(part, self.weights[""]) for part in parts]).reshape(-1, 3)
        logits = weights[:, 0] + (weights[:, 1:] * features).sum(axis=1) + np.log(_PRIOR_ODDS)
        return np.asarray(np.where(np.isfinite(score), 1.0 / (1.0 + np.exp(-np.clip(logits, -700.0, 700.0))), 0.0))


def _features(score: np.ndarray, rivals: np.ndarray) -> np.ndarray:
    return np.stack([score, score - rivals], axis=1)


def _fit(seen: NeighborEvidence, matching: np.ndarray, strange: np.ndarray) -> np.ndarray:
    """Return intercept and weights that separate matches from nearest others, both weighted equally."""
    from sklearn.linear_model import LogisticRegression

    match = _features(seen.own_score[matching], seen.strangers[matching])
    stranger = _features(seen.score[strange], seen.third[strange])
    both = np.concatenate([match, stranger])
    middle, spread = both.mean(axis=0), np.where(both.std(axis=0) > 0, both.std(axis=0), 1.0)
    labels = np.repeat([1, 0], [len(match), len(stranger)])
    model = LogisticRegression(C=100.0, class_weight="balanced").fit((both - middle) / spread, labels)
    slopes = model.coef_[0] / spread
    return np.asarray([model.intercept_[0] - slopes @ middle, *slopes])
