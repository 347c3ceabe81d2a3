"""Guesses at who is on photographs that nobody knows, and how probable each guess is.

The probabilities are learned from named photographs that the encoder was not trained on. Knows vectors and names,
neither training nor tables.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from whale_ray.retrieval.evaluation.calibration import CANDIDATES, Calibration, fit_calibration
from whale_ray.retrieval.search.gallery_index import GalleryIndex
from whale_ray.retrieval.search.neighbors import find_neighbours
from whale_ray.retrieval.search.voting import Ranking, rank_individuals

_ROUNDS = 100


@dataclass(frozen=True)
class Guesses:
    """individuals: (U,), the nearest individual of each photograph. probabilities: (U,), that it is the one; NaN where
    there were too few named photographs to learn it from.
    """

    individuals: np.ndarray
    probabilities: np.ndarray


def guess_individuals(unknown: np.ndarray, index: GalleryIndex, *, held: np.ndarray, names: np.ndarray) -> Guesses:
    """The nearest individual in the gallery of each unknown photograph (U, D), and its probability.

    held: (H, D), named photographs of individuals in the gallery which neither gallery nor training has seen; names:
    (H,), of whom. Each is asked twice: as it is, and as if its own individual were in no gallery. How many of the
    unknown are in no gallery is estimated from their own answers, at least as many as among those.
    """
    calibration, share = _calibrate(held, names, index)
    ranking = _rank(unknown, index, individuals=CANDIDATES)
    shown = ranking.cosines[:, :CANDIDATES]
    first = calibration.of_match(shown)[:, 0] if len(index) else np.full(len(unknown), np.nan)
    nearest = index.names[ranking.individuals[:, 0]] if len(index) else np.full(len(unknown), "")
    return Guesses(nearest, adjust_to_share(first, share))


def _calibrate(held: np.ndarray, names: np.ndarray, index: GalleryIndex) -> tuple[Calibration, float]:
    """The calibration by the held photographs, and the share of their answers whose first candidate is right."""
    ranking = _rank(held, index, individuals=CANDIDATES + 1)
    own = ranking.individuals == index.codes_of(names)[:, None]
    ranks = np.where(own.any(axis=1), own.argmax(axis=1) + 1, 0)
    ranks[ranks > CANDIDATES] = 0
    others = np.take_along_axis(ranking.cosines, np.argsort(own, axis=1, kind="stable"), axis=1)
    others[own.any(axis=1), -1] = np.nan
    cosines = np.concatenate([ranking.cosines[:, :CANDIDATES], others[:, :CANDIDATES]])
    ranks = np.concatenate([ranks, np.zeros_like(ranks)])
    new = np.repeat([False, True], len(held))
    return fit_calibration(cosines, ranks, new), float(np.mean(ranks == 1)) if len(ranks) else 0.0


def _rank(queries: np.ndarray, index: GalleryIndex, *, individuals: int) -> Ranking:
    return rank_individuals(find_neighbours(queries, index, individuals=individuals), vote="nearest")


def adjust_to_share(probabilities: np.ndarray, share: float) -> np.ndarray:
    """Probabilities learned where a `share` of answers was right, for answers of which perhaps fewer are: (U,).

    The share is estimated from the probabilities themselves by expectation and maximisation (Saerens, Latinne,
    Decaestecker, 2002, "Adjusting the outputs of a classifier to new a priori probabilities"); never a larger one.

    >>> adjust_to_share(np.array([0.5, 0.5]), 0.5).tolist()
    [0.5, 0.5]
    """
    if not len(probabilities) or np.isnan(probabilities).any() or not 0 < share < 1:
        return probabilities
    now, adjusted = share, probabilities
    for _ in range(_ROUNDS):
        right = probabilities * now / share
        adjusted = right / (right + (1 - probabilities) * (1 - now) / (1 - share))
        now = min(share, float(adjusted.mean()))
        if not now > 0:
            break
    return np.asarray(adjusted)
