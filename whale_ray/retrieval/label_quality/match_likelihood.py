"""What the photographs say of one another, and how sure that makes one that two of them are one animal.

How sure is measured on the photographs themselves. Those that are nearest to their own individual show what a match
looks like; the same ones, their individual taken away, show what the nearest stranger looks like. A logistic
regression on both (cosine, and lead over the next individual) gives a likelihood ratio; with prior odds of one wrong
label in twenty it is the confidence. So an encoder's scale does not matter, and one that tells nobody apart is
confident of nothing. Evidence from what was not told the label is the idea of confident learning (Northcutt, Jiang and
Chuang, JAIR 2021): each photograph is left out of what judges it.

Knows vectors, labels and parts; what is in doubt, and what a person is told of it, is `doubts`'.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from whale_ray.retrieval.label_quality.nearest_pairs import NOBODY, chunks
from whale_ray.retrieval.search.gallery_index import GalleryIndex

FEWEST = 10  # photographs that are known by their own individual, below which nothing can be learned
UNKNOWN = "\0unknown"  # the part of the scale that photographs of unknown animals are judged by
_PRIOR_ODDS = 0.05 / 0.95


@dataclass(frozen=True)
class Rows:
    """The photographs. vectors: unit, float32 (N, D); the others (N,)."""

    vectors: np.ndarray
    images: np.ndarray
    individuals: np.ndarray
    parts: np.ndarray
    named: np.ndarray


@dataclass(frozen=True)
class Seen:
    """What each photograph sees of the others, itself left out; -inf where there is nothing.

    own: the cosine to the nearest of its individual. own_score: the mean of the two nearest. best: the code of the
    stranger with the greatest score, the mean of its two nearest. score: that. third: the greatest cosine to any other
    stranger. toward: (C, C) mean over an individual's photographs of the score of each individual, of its one cosine
    where it has one photograph.
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
        """The greatest cosine to anybody but the best stranger."""
        return np.asarray(np.maximum(self.third, self.own))

    @property
    def strangers(self) -> np.ndarray:
        """The greatest evidence for anybody but its own individual."""
        return np.asarray(np.maximum(self.third, self.score))

    @property
    def recognised(self) -> np.ndarray:
        """Whose own individual is nearest, by two photographs."""
        found = np.isfinite(self.own_score) & np.isfinite(self.score) & np.isfinite(self.third)
        return np.asarray(found & (self.own_score > self.strangers))

    def candidates(self, rows: Rows) -> np.ndarray:
        """Named photographs to which a stranger is nearer than their own individual."""
        return np.asarray(rows.named & (self.score > self.own))


def look(rows: Rows, trusted: np.ndarray) -> Seen:
    """What is seen of the photographs that are named and `trusted`, bool (N,)."""
    gallery = np.flatnonzero(rows.named & trusted)
    index = GalleryIndex(rows.vectors[gallery], rows.individuals[gallery], rounded=False)
    place = np.full(len(rows.images), -1)
    place[gallery[index.rows]] = np.arange(len(gallery))
    own_code = index.codes_of(rows.individuals)
    own, own_score, score, third = (np.full(len(rows.images), NOBODY) for _ in range(4))
    best = np.full(len(rows.images), -1)
    toward = np.zeros((len(index.names), len(index.names)))
    for part in chunks(len(rows.images), len(index)):
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
    return Seen(index, own, own_score, best, score, third, toward / np.maximum(counts, 1)[:, None])


def _first_and_mean(cosines: np.ndarray, index: GalleryIndex) -> tuple[np.ndarray, np.ndarray]:
    """(q, C): the greatest cosine to each individual, and the mean of the two greatest; -inf without two."""
    first = np.maximum.reduceat(cosines, index.starts, axis=1)
    is_first = cosines == first[:, index.codes]
    twice = np.add.reduceat(is_first, index.starts, axis=1, dtype=np.int64) > 1
    second = np.maximum.reduceat(np.where(is_first, NOBODY, cosines), index.starts, axis=1)
    return first, (first + np.where(twice, first, second)) / 2


@dataclass(frozen=True)
class Scale:
    """Weights (intercept, cosine, lead) of each part, and of all together under ""."""

    weights: dict[str, np.ndarray]

    @classmethod
    def learned(cls, seen: Seen, rows: Rows) -> Scale | None:
        """From the photographs that are recognised; None where there are too few."""
        masks = {"": seen.recognised} | {part: seen.recognised & (rows.parts == part) for part in np.unique(rows.parts)}
        fitted = {part: _fit(seen, *[np.flatnonzero(mask)] * 2) for part, mask in masks.items() if mask.sum() >= FEWEST}
        if "" not in fitted:
            return None
        # of unknown animals most are unknown indeed: their nearest individuals are the strangers to learn from
        unknown = np.flatnonzero(~rows.named & np.isfinite(seen.score) & np.isfinite(seen.third))
        enough = len(unknown) >= FEWEST
        return cls(fitted | {UNKNOWN: _fit(seen, np.flatnonzero(seen.recognised), unknown) if enough else fitted[""]})

    def confidence(self, score: np.ndarray, rivals: np.ndarray, parts: np.ndarray | None = None) -> np.ndarray:
        """The confidence that `score` (n,) is of the same animal, the next individual having `rivals` (n,)."""
        parts = np.full(len(score), "") if parts is None else parts
        features = _features(np.nan_to_num(score, neginf=-1.0), np.nan_to_num(rivals, neginf=-1.0))
        weights = np.array([self.weights.get(part, self.weights[""]) for part in parts]).reshape(-1, 3)
        logits = weights[:, 0] + (weights[:, 1:] * features).sum(axis=1) + np.log(_PRIOR_ODDS)
        return np.asarray(np.where(np.isfinite(score), 1.0 / (1.0 + np.exp(-np.clip(logits, -700.0, 700.0))), 0.0))


def _features(score: np.ndarray, rivals: np.ndarray) -> np.ndarray:
    return np.stack([score, score - rivals], axis=1)


def _fit(seen: Seen, matching: np.ndarray, strange: np.ndarray) -> np.ndarray:
    """Intercept and weights that tell the matches of `matching` from the nearest strangers of `strange`, counted even.

    matching, strange: rows.
    """
    from sklearn.linear_model import LogisticRegression

    match = _features(seen.own_score[matching], seen.strangers[matching])
    stranger = _features(seen.score[strange], seen.third[strange])
    both = np.concatenate([match, stranger])
    middle, spread = both.mean(axis=0), np.where(both.std(axis=0) > 0, both.std(axis=0), 1.0)
    labels = np.repeat([1, 0], [len(match), len(stranger)])
    model = LogisticRegression(C=100.0, class_weight="balanced").fit((both - middle) / spread, labels)
    slopes = model.coef_[0] / spread
    return np.asarray([model.intercept_[0] - slopes @ middle, *slopes])
