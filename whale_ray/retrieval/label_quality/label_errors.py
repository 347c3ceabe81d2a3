"""Likely label errors: photographs of another individual, and individuals under two names.

Works on embeddings and labels alone and changes nothing: a person decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from whale_ray.retrieval.label_quality.match_confidence import (
    FEWEST,
    UNKNOWN,
    LabelledVectors,
    MatchConfidence,
    NeighborEvidence,
    gather_evidence,
)
from whale_ray.retrieval.label_quality.nearest_pairs import NOBODY, nearest_of_each
from whale_ray.retrieval.search.gallery_index import normalize_rows

KINDS = ("mislabelled", "recognised", "same_individual", "new_individual")
LEAST_CONFIDENCE = 0.4
_LOOKS_AGAIN, _DOUBTFUL = 2, 0.3


@dataclass(frozen=True)
class LabelErrors:
    """The findings.

    Attributes:
        table: One row per finding, by kind and falling confidence: kind, image, individual, other_image,
            other_individual, suggested, confidence.
        reasons: Why a kind could not be judged, by kind.
    """

    table: pd.DataFrame
    reasons: dict[str, str]


def find_label_errors(
    vectors: np.ndarray,
    *,
    images: np.ndarray,
    individuals: np.ndarray,
    parts: np.ndarray,
    unknown_label: str,
    least: float = LEAST_CONFIDENCE,
) -> LabelErrors:
    """Return the findings with a confidence of at least `least`.

    Kinds: `mislabelled`, two photographs of another individual are nearer than any other of the labelled one;
    `recognised`, the same for a photograph of an unknown animal; `same_individual`, two individuals whose photographs
    are nearest to one another; `new_individual`, two photographs of unknown animals that are nearest to one another.

    Args:
        vectors: Shape (N, D).
        images: File name of each row, shape (N,).
        individuals: Individual of each row, shape (N,).
        parts: Part of each row, shape (N,). Each part is judged by its own photographs, since an encoder separates its
            training photographs better.
        unknown_label: Label of unknown individuals.
        least: Smallest confidence, 0 to 1.
    """
    names = np.asarray(individuals, dtype=str)
    named = names != unknown_label
    if reason := _why_not(names, named):
        return LabelErrors(_table([]), dict.fromkeys(KINDS, reason))
    rows = LabelledVectors(
        normalize_rows(vectors), np.asarray(images, dtype=str), names, np.asarray(parts, dtype=str), named
    )
    first = seen = gather_evidence(rows, np.ones(len(names), dtype=bool))
    scale = MatchConfidence.learned(seen, rows)
    if scale is None:
        return LabelErrors(_table([]), dict.fromkeys(KINDS, _too_few(seen)))
    for _ in range(_LOOKS_AGAIN):
        # a wrong label makes strangers alike and hides others: what is doubtful says nothing in the next look
        doubtful = seen.candidates(rows) & (scale.confidence(seen.score, seen.rivals, rows.parts) >= _DOUBTFUL)
        seen = gather_evidence(rows, ~doubtful)
        scale = MatchConfidence.learned(seen, rows) or scale
    doubles = list(_same_individual(rows, first, scale, least))
    explained = {frozenset((row["individual"], row["other_individual"])) for row in doubles}
    found = [
        row
        for row in _mislabelled(rows, seen, scale, least)
        if frozenset((row["individual"], row["suggested"])) not in explained
    ]
    found += [*doubles, *_new_individual(rows, seen, scale, least)]
    nothing_to_find = dict.fromkeys(("recognised", "new_individual"), "no photograph is of an unknown animal")
    return LabelErrors(_table(found), nothing_to_find if named.all() else {})


def _why_not(names: np.ndarray, named: np.ndarray) -> str:
    if not named.any():
        return "every photograph is of an unknown animal, so that there is no name to doubt"
    if len(np.unique(names[named])) < 2:
        return "there is one individual only, so that its photographs cannot be anybody else's"
    return ""


def _too_few(seen: NeighborEvidence) -> str:
    return (
        f"what a match looks like is learned from photographs that lie nearest to two others of their individual, at "
        f"least {FEWEST}, but there are {int(seen.recognised.sum())}"
    )


def _table(rows: list[dict[str, object]]) -> pd.DataFrame:
    columns = ["kind", "image", "individual", "other_image", "other_individual", "suggested", "confidence"]
    table = pd.DataFrame(rows, columns=columns)
    order = table["kind"].map({kind: place for place, kind in enumerate(KINDS)})
    keys = pd.DataFrame({"kind": order, "confidence": -table["confidence"].astype(float), "image": table["image"]})
    return table.loc[keys.sort_values(["kind", "confidence", "image"]).index].reset_index(drop=True)


def _mislabelled(
    rows: LabelledVectors, seen: NeighborEvidence, scale: MatchConfidence, least: float
) -> Iterator[dict[str, object]]:
    """Yield photographs of another individual, among named and unknown ones."""
    rivals = np.where(rows.named, seen.rivals, seen.third)
    sure = scale.confidence(seen.score, rivals, np.where(rows.named, rows.parts, UNKNOWN))
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


def _nearest(rows: LabelledVectors, row: int, among: np.ndarray) -> int:
    """Return the row of `among` that is nearest to `row`."""
    places = np.flatnonzero(among & (np.arange(len(among)) != row))
    return int(places[np.argmax(rows.vectors[places] @ rows.vectors[row])])


def _same_individual(
    rows: LabelledVectors, seen: NeighborEvidence, scale: MatchConfidence, least: float
) -> Iterator[dict[str, object]]:
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


def _closest(rows: LabelledVectors, ones: np.ndarray, others: np.ndarray) -> tuple[int, int]:
    cosines = rows.vectors[ones] @ rows.vectors[others].T
    place = np.unravel_index(int(cosines.argmax()), cosines.shape)
    return int(ones[place[0]]), int(others[place[1]])


def _mutual_pairs(scores: np.ndarray) -> Iterator[tuple[int, int, float, float]]:
    """Pairs that are each other's first in a symmetric matrix: both, their score, the next one's of either."""
    scores = scores.copy()
    np.fill_diagonal(scores, NOBODY)
    first = scores.argmax(axis=1)
    for one, other in enumerate(first):
        if one < other and first[other] == one:
            rest = np.delete(scores[[one, other]], [one, other], axis=1)
            yield one, int(other), float(scores[one, other]), float(rest.max(initial=-1.0))


def _new_individual(
    rows: LabelledVectors, seen: NeighborEvidence, scale: MatchConfidence, least: float
) -> Iterator[dict[str, object]]:
    """Photographs of unknown animals that are each other's nearest, and nearer than any individual."""
    unknown = np.flatnonzero(~rows.named)
    if len(unknown) < 2:
        return
    known = np.maximum(seen.third, seen.score)[unknown]
    nearest, cosines = nearest_of_each(rows.vectors[unknown])
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
