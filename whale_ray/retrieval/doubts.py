"""Labels in doubt, from vectors alone: who is probably somebody else, or one animal under two names.

Knows vectors, labels and parts. Opens no picture and changes nothing: a person decides.

How sure two photographs, or names, are one animal is measured on the photographs themselves. Those that are nearest to
their own individual show what a match looks like; the same ones, their individual taken away, show what the nearest
stranger looks like. A logistic regression on both (cosine, and lead over the next individual) gives a likelihood
ratio; with prior odds of one wrong label in twenty it is the confidence. So an encoder's scale does not matter, and
one that tells nobody apart is confident of nothing. Evidence from what was not told the label is the idea of confident
learning (Northcutt, Jiang and Chuang, JAIR 2021): each photograph is left out of what judges it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from whale_ray.retrieval.gallery import GalleryIndex, unit

KINDS = ("mislabelled", "recognised", "same_individual", "new_individual")
LEAST_CONFIDENCE = 0.4
_PRIOR_ODDS = 0.05 / 0.95
_LOOKS_AGAIN, _DOUBTFUL = 2, 0.3
_FEWEST = 10  # photographs that are known by their own individual, below which nothing can be learned
_CELLS = 2**24
_UNKNOWN = "\0unknown"
_NOBODY = -np.inf


@dataclass(frozen=True)
class Doubts:
    """What is in doubt.

    table: a row a finding, by kind and falling confidence: kind, image, individual, other_image, other_individual,
    suggested, confidence. reasons: for a kind that cannot be judged, why.
    """

    table: pd.DataFrame
    reasons: dict[str, str]


def find_doubts(
    vectors: np.ndarray,
    *,
    images: np.ndarray,
    individuals: np.ndarray,
    parts: np.ndarray,
    unknown_label: str,
    least: float = LEAST_CONFIDENCE,
) -> Doubts:
    """The findings with a confidence of `least` or more among N photographs.

    vectors: (N, D). images, individuals, parts: (N,); each part is judged by its own photographs: an encoder knows
    those that it was trained on better than others.

    mislabelled: two photographs of another individual are nearer than any of its own. recognised: the same for a
    photograph of an unknown animal. same_individual: two individuals whose photographs are nearest to one another.
    new_individual: two photographs of unknown animals that are.
    """
    names = np.asarray(individuals, dtype=str)
    named = names != unknown_label
    if reason := _why_not(names, named):
        return Doubts(_table([]), dict.fromkeys(KINDS, reason))
    rows = _Rows(unit(vectors), np.asarray(images, dtype=str), names, np.asarray(parts, dtype=str), named)
    first = seen = _look(rows, np.ones(len(names), dtype=bool))
    scale = _Scale.learned(seen, rows)
    if scale is None:
        return Doubts(_table([]), dict.fromkeys(KINDS, _too_few(seen)))
    for _ in range(_LOOKS_AGAIN):
        # a wrong label makes strangers alike and hides others: what is doubtful says nothing in the next look
        doubtful = seen.candidates(rows) & (scale.confidence(seen.score, seen.rivals, rows.parts) >= _DOUBTFUL)
        seen = _look(rows, ~doubtful)
        scale = _Scale.learned(seen, rows) or scale
    doubles = list(_same_individual(rows, first, scale, least))
    explained = {frozenset((row["individual"], row["other_individual"])) for row in doubles}
    found = [
        row
        for row in _mislabelled(rows, seen, scale, least)
        if frozenset((row["individual"], row["suggested"])) not in explained
    ]
    found += [*doubles, *_new_individual(rows, seen, scale, least)]
    nobody = dict.fromkeys(("recognised", "new_individual"), "no photograph is of an unknown animal")
    return Doubts(_table(found), nobody if named.all() else {})


def _why_not(names: np.ndarray, named: np.ndarray) -> str:
    if not named.any():
        return "every photograph is of an unknown animal, so that there is no name to doubt"
    if len(np.unique(names[named])) < 2:
        return "there is one individual only, so that its photographs cannot be anybody else's"
    return ""


def _too_few(seen: _Seen) -> str:
    return (
        f"what a match looks like is learned from photographs that lie nearest to two others of their individual, at "
        f"least {_FEWEST}, but there are {int(seen.recognised.sum())}"
    )


def _table(rows: list[dict[str, object]]) -> pd.DataFrame:
    columns = ["kind", "image", "individual", "other_image", "other_individual", "suggested", "confidence"]
    table = pd.DataFrame(rows, columns=columns)
    order = table["kind"].map({kind: place for place, kind in enumerate(KINDS)})
    keys = pd.DataFrame({"kind": order, "confidence": -table["confidence"].astype(float), "image": table["image"]})
    return table.loc[keys.sort_values(["kind", "confidence", "image"]).index].reset_index(drop=True)


@dataclass(frozen=True)
class _Rows:
    """The photographs. vectors: unit, float32 (N, D); the others (N,)."""

    vectors: np.ndarray
    images: np.ndarray
    individuals: np.ndarray
    parts: np.ndarray
    named: np.ndarray


@dataclass(frozen=True)
class _Seen:
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

    def candidates(self, rows: _Rows) -> np.ndarray:
        """Named photographs to which a stranger is nearer than their own individual."""
        return np.asarray(rows.named & (self.score > self.own))


def _look(rows: _Rows, trusted: np.ndarray) -> _Seen:
    """What is seen of the photographs that are named and `trusted`, bool (N,)."""
    gallery = np.flatnonzero(rows.named & trusted)
    index = GalleryIndex(rows.vectors[gallery], rows.individuals[gallery], rounded=False)
    place = np.full(len(rows.images), -1)
    place[gallery[index.rows]] = np.arange(len(gallery))
    own_code = index.codes_of(rows.individuals)
    own, own_score, score, third = (np.full(len(rows.images), _NOBODY) for _ in range(4))
    best = np.full(len(rows.images), -1)
    toward = np.zeros((len(index.names), len(index.names)))
    for part in _chunks(len(rows.images), len(index)):
        cosines = (rows.vectors[part] @ index.vectors.T).astype(np.float64)
        here, code, lines = place[part], own_code[part], np.arange(part.stop - part.start)
        cosines[lines[here >= 0], here[here >= 0]] = _NOBODY
        first, mean = _first_and_mean(cosines, index)
        np.add.at(toward, code[code >= 0], np.where(np.isfinite(mean), mean, first)[code >= 0])
        known = lines[code >= 0]
        own[part][known], own_score[part][known] = first[known, code[known]], mean[known, code[known]]
        first[known, code[known]] = mean[known, code[known]] = _NOBODY
        best[part] = mean.argmax(axis=1)
        score[part] = mean[lines, best[part]]
        first[lines, best[part]] = _NOBODY
        third[part] = first.max(axis=1)
    counts = np.bincount(own_code[own_code >= 0], minlength=len(index.names))
    return _Seen(index, own, own_score, best, score, third, toward / np.maximum(counts, 1)[:, None])


def _chunks(count: int, width: int) -> Iterator[slice]:
    size = max(1, _CELLS // max(width, 1))
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _first_and_mean(cosines: np.ndarray, index: GalleryIndex) -> tuple[np.ndarray, np.ndarray]:
    """(q, C): the greatest cosine to each individual, and the mean of the two greatest; -inf without two."""
    first = np.maximum.reduceat(cosines, index.starts, axis=1)
    is_first = cosines == first[:, index.codes]
    twice = np.add.reduceat(is_first, index.starts, axis=1, dtype=np.int64) > 1
    second = np.maximum.reduceat(np.where(is_first, _NOBODY, cosines), index.starts, axis=1)
    return first, (first + np.where(twice, first, second)) / 2


@dataclass(frozen=True)
class _Scale:
    """Weights (intercept, cosine, lead) of each part, and of all together under ""."""

    weights: dict[str, np.ndarray]

    @classmethod
    def learned(cls, seen: _Seen, rows: _Rows) -> _Scale | None:
        """From the photographs that are recognised; None where there are too few."""
        masks = {"": seen.recognised} | {part: seen.recognised & (rows.parts == part) for part in np.unique(rows.parts)}
        fitted = {
            part: _fit(seen, *[np.flatnonzero(mask)] * 2) for part, mask in masks.items() if mask.sum() >= _FEWEST
        }
        if "" not in fitted:
            return None
        # of unknown animals most are unknown indeed: their nearest individuals are the strangers to learn from
        unknown = np.flatnonzero(~rows.named & np.isfinite(seen.score) & np.isfinite(seen.third))
        enough = len(unknown) >= _FEWEST
        return cls(fitted | {_UNKNOWN: _fit(seen, np.flatnonzero(seen.recognised), unknown) if enough else fitted[""]})

    def confidence(self, score: np.ndarray, rivals: np.ndarray, parts: np.ndarray | None = None) -> np.ndarray:
        """The confidence that `score` (n,) is of the same animal, the next individual having `rivals` (n,)."""
        parts = np.full(len(score), "") if parts is None else parts
        features = _features(np.nan_to_num(score, neginf=-1.0), np.nan_to_num(rivals, neginf=-1.0))
        weights = np.array([self.weights.get(part, self.weights[""]) for part in parts]).reshape(-1, 3)
        logits = weights[:, 0] + (weights[:, 1:] * features).sum(axis=1) + np.log(_PRIOR_ODDS)
        return np.asarray(np.where(np.isfinite(score), 1.0 / (1.0 + np.exp(-np.clip(logits, -700.0, 700.0))), 0.0))


def _features(score: np.ndarray, rivals: np.ndarray) -> np.ndarray:
    return np.stack([score, score - rivals], axis=1)


def _fit(seen: _Seen, matching: np.ndarray, strange: np.ndarray) -> np.ndarray:
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


def _mislabelled(rows: _Rows, seen: _Seen, scale: _Scale, least: float) -> Iterator[dict[str, object]]:
    """Photographs of somebody else, named ones and those of unknown animals."""
    rivals = np.where(rows.named, seen.rivals, seen.third)
    sure = scale.confidence(seen.score, rivals, np.where(rows.named, rows.parts, _UNKNOWN))
    for row in np.flatnonzero((sure >= least) & (seen.candidates(rows) | ~rows.named)):
        name = str(seen.index.names[seen.best[row]])
        shown = _nearest(rows, int(row), rows.named & (rows.individuals == name))
        yield {
            "kind": "mislabelled" if rows.named[row] else "recognised",
            "image": str(rows.images[row]),
            "individual": str(rows.individuals[row]),
            "other_image": str(rows.images[shown]),
            "other_individual": name,
            "suggested": name,
            "confidence": float(sure[row]),
        }


def _nearest(rows: _Rows, row: int, among: np.ndarray) -> int:
    """The row of `among` that is nearest to `row`."""
    places = np.flatnonzero(among & (np.arange(len(among)) != row))
    return int(places[np.argmax(rows.vectors[places] @ rows.vectors[row])])


def _same_individual(rows: _Rows, seen: _Seen, scale: _Scale, least: float) -> Iterator[dict[str, object]]:
    """Individuals that are each other's nearest, and nearer to one another than half the way to strangers."""
    counts = seen.index.images_per_individual
    total = seen.toward * counts[:, None]
    mutual = (total + total.T) / (counts[:, None] + counts[None, :])
    within = np.where(counts > 1, np.diagonal(seen.toward), np.nan)
    for one, other, score, rival in _mutual_pairs(mutual):
        sure = float(scale.confidence(np.array([score]), np.array([rival]))[0])
        own = np.nanmean([within[one], within[other], score])
        if sure < least or own - score > score - rival:
            continue
        small, large = sorted((one, other), key=lambda code: (counts[code], str(seen.index.names[code])))
        names = [str(seen.index.names[code]) for code in (small, large)]
        first, second = _closest(rows, *(np.flatnonzero(rows.individuals == name) for name in names))
        yield {
            "kind": "same_individual",
            "image": str(rows.images[first]),
            "individual": names[0],
            "other_image": str(rows.images[second]),
            "other_individual": names[1],
            "suggested": names[1],
            "confidence": sure,
        }


def _closest(rows: _Rows, ones: np.ndarray, others: np.ndarray) -> tuple[int, int]:
    cosines = rows.vectors[ones] @ rows.vectors[others].T
    place = np.unravel_index(int(cosines.argmax()), cosines.shape)
    return int(ones[place[0]]), int(others[place[1]])


def _mutual_pairs(scores: np.ndarray) -> Iterator[tuple[int, int, float, float]]:
    """Pairs that are each other's first in a symmetric matrix: both, their score, the next one's of either."""
    scores = scores.copy()
    np.fill_diagonal(scores, _NOBODY)
    first = scores.argmax(axis=1)
    for one, other in enumerate(first):
        if one < other and first[other] == one:
            rest = np.delete(scores[[one, other]], [one, other], axis=1)
            yield one, int(other), float(scores[one, other]), float(rest.max(initial=-1.0))


def _new_individual(rows: _Rows, seen: _Seen, scale: _Scale, least: float) -> Iterator[dict[str, object]]:
    """Photographs of unknown animals that are each other's nearest, and nearer than any individual."""
    unknown = np.flatnonzero(~rows.named)
    if len(unknown) < 2:
        return
    known = np.maximum(seen.third, seen.score)[unknown]
    nearest, cosines = _nearest_of_each(rows.vectors[unknown])
    ones = np.flatnonzero((nearest[nearest] == np.arange(len(unknown))) & (np.arange(len(unknown)) < nearest))
    others = nearest[ones]
    sure = scale.confidence(cosines[ones], np.maximum(known[ones], known[others]))
    taken, number = set(rows.individuals), 0
    for one, other, confidence in zip(ones, others, sure, strict=True):
        if confidence < least:
            continue
        number += 1
        while f"new_{number:04}" in taken:
            number += 1
        first, second = (int(unknown[place]) for place in (one, other))
        yield {
            "kind": "new_individual",
            "image": str(rows.images[first]),
            "individual": str(rows.individuals[first]),
            "other_image": str(rows.images[second]),
            "other_individual": str(rows.individuals[second]),
            "suggested": f"new_{number:04}",
            "confidence": float(confidence),
        }


def nearest_pairs(vectors: np.ndarray, *, depth: int = 3, most: int = 20_000) -> np.ndarray:
    """The pairs of photographs that may be one picture: int (P, 2), the smaller row first, the nearest pairs first.

    vectors: (N, D). Those of which one is the nearest of the other, or each among the other's nearest `depth`; of these
    the `most` nearest.
    """
    precise = unit(vectors)
    depth = min(depth, len(precise) - 1)
    if depth < 1:
        return np.zeros((0, 2), dtype=np.int64)
    nearest, cosines = np.zeros((len(precise), depth), dtype=np.int64), np.zeros((len(precise), depth))
    for part in _chunks(len(precise), len(precise)):
        block = _others(precise, part)
        nearest[part] = np.argsort(-block, axis=1, kind="stable")[:, :depth]
        cosines[part] = np.take_along_axis(block, nearest[part], axis=1)
    ones = np.repeat(np.arange(len(precise)), depth)
    others, first = nearest.ravel(), np.tile(np.arange(depth) == 0, len(precise))
    mutual = (nearest[others] == ones[:, None]).any(axis=1)
    kept = np.flatnonzero(first | mutual)
    kept = kept[np.argsort(-cosines.ravel()[kept], kind="stable")]
    pairs = np.sort(np.stack([ones[kept], others[kept]], axis=1), axis=1)
    return np.asarray(pairs[np.sort(np.unique(pairs, axis=0, return_index=True)[1])][:most])


def _others(vectors: np.ndarray, part: slice) -> np.ndarray:
    """The cosines of a part to all, (n, N); -inf to itself."""
    block = (vectors[part] @ vectors.T).astype(np.float64)
    lines = np.arange(len(block))
    block[lines, lines + part.start] = _NOBODY
    return np.asarray(block)


def _nearest_of_each(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest other one of each (n, D), and its cosine: both (n,)."""
    nearest, cosines = np.zeros(len(vectors), dtype=np.int64), np.zeros(len(vectors))
    for part in _chunks(len(vectors), len(vectors)):
        block = _others(vectors, part)
        nearest[part] = block.argmax(axis=1)
        cosines[part] = block.max(axis=1)
    return nearest, cosines
