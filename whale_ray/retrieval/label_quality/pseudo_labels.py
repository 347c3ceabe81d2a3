"""Pseudo-labels: the most probable individual of unlabelled photographs, with calibrated probabilities.

The probabilities are learned from named photographs that the encoder was not trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from whale_ray.retrieval.evaluation.calibration import Calibration, fit_calibration
from whale_ray.retrieval.evaluation.calibration_features import CANDIDATES
from whale_ray.retrieval.search.gallery_index import GalleryIndex, normalize_rows
from whale_ray.retrieval.search.neighbor_search import find_neighbors
from whale_ray.retrieval.search.voting import Ranking, rank_individuals

_ROUNDS = 100


@dataclass(frozen=True)
class PseudoLabels:
    """Proposed labels of U photographs.

    Attributes:
        individuals: Nearest individual, shape (U,).
        probabilities: Probability that it is right, shape (U,); NaN if there is too little data.
    """

    individuals: np.ndarray
    probabilities: np.ndarray


def propose_labels(unknown: np.ndarray, index: GalleryIndex, *, held: np.ndarray, names: np.ndarray) -> PseudoLabels:
    """Return the nearest individual of each unknown photograph with its probability.

    Args:
        unknown: Vectors of the unknown photographs, shape (U, D).
        index: The gallery.
        held: Vectors of named photographs outside gallery and training, shape (H, D). Each is asked as it is, and with
            its individual removed from the gallery.
        names: Individual of each held photograph, shape (H,).
    """
    calibration, share = _calibrate(held, names, index)
    ranking = _rank(unknown, index, individuals=CANDIDATES)
    shown = ranking.cosines[:, :CANDIDATES]
    first = calibration.of_match(shown)[:, 0] if len(index) else np.full(len(unknown), np.nan)
    nearest = index.names[ranking.individuals[:, 0]] if len(index) else np.full(len(unknown), "")
    return PseudoLabels(nearest, adjust_to_share(first, share))


def _calibrate(held: np.ndarray, names: np.ndarray, index: GalleryIndex) -> tuple[Calibration, float]:
    """Return the calibration on the held photographs, and the share of correct first candidates."""
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
    return rank_individuals(find_neighbors(normalize_rows(queries), index, individuals=individuals), vote="nearest")


def adjust_to_share(probabilities: np.ndarray, share: float) -> np.ndarray:
    """Return probabilities adjusted to a possibly smaller share of correct answers, shape (U,).

    The share is estimated from the probabilities by expectation maximisation, and never exceeds `share`. Saerens et
    al., "Adjusting the outputs of a classifier to new a priori probabilities", 2002.

    >>> adjust_to_share(np.array([0.5, 0.5]), 0.5).tolist()
    [0.5, 0.5]

    Args:
        probabilities: Shape (U,).
        share: Share of correct answers where the probabilities were learned.
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
