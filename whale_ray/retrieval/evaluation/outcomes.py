"""Outcomes of a retrieval setting: the right answers of all queries, and what one setting gives each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np

from whale_ray.retrieval.evaluation.metrics import find_ranks
from whale_ray.retrieval.evaluation.thresholds.threshold_steps import ThresholdSteps, threshold_steps
from whale_ray.retrieval.fusion.candidates import Candidates
from whale_ray.retrieval.fusion.cross_fitting import cross_fit
from whale_ray.retrieval.fusion.fusion_model import FusionModel
from whale_ray.retrieval.search.voting import Ranking


@dataclass(frozen=True)
class Queries:
    """The right answers of Q queries, each array of shape (Q,).

    Attributes:
        truth: Code of the individual in the query's gallery; -1 if it is not there.
        new: Whether the right answer is the unknown individual.
        images: Gallery images of the individual.
        gallery: Images in the query's gallery that may be of its species.
        individuals: Individuals in the query's gallery that may be of its species.
        labels: Label of the individual, str.
        species: Species, str; "" for unknown.
    """

    truth: np.ndarray
    new: np.ndarray
    images: np.ndarray
    gallery: np.ndarray
    individuals: np.ndarray
    labels: np.ndarray
    species: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """True if the individual has a gallery image; bool, shape (Q,)."""
        known: np.ndarray = self.truth >= 0
        return known

    @property
    def asked(self) -> np.ndarray:
        """True if recall counts the query: it is known, and the gallery has another individual; bool, shape (Q,)."""
        asked: np.ndarray = self.known & (self.individuals > 1)
        return asked

    @cached_property
    def weights(self) -> np.ndarray:
        """Weight of each query in a mean over individuals, float64, shape (Q,); 0 unless recall counts it."""
        return weights_over_individuals(self.labels, self.asked)


@dataclass(frozen=True)
class Outcome:
    """Ranks and cosines of each query with one retrieval setting.

    Attributes:
        ranks: Rank of the right individual, shape (Q,).
        image_ranks: Rank of the first right image, shape (Q,).
        cosines: Cosines of the first individuals, shape (Q, at most 5).
        images: Row of the first answer's nearest image; -1 without an answer. Shape (Q,).
        new: Whether the right answer is the unknown individual, shape (Q,).
        strangers: Mean cosine of the strangers nearest to each query, shape (Q,); NaN without a cohort.
    """

    ranks: np.ndarray
    image_ranks: np.ndarray
    cosines: np.ndarray
    images: np.ndarray
    new: np.ndarray
    strangers: np.ndarray

    @cached_property
    def steps(self) -> ThresholdSteps:
        """map@5 as a function of the threshold."""
        return threshold_steps(self.cosines, self.ranks, self.new)


def read_outcome(
    ranking: Ranking,
    image_ranks: np.ndarray,
    queries: Queries,
    *,
    nearest: np.ndarray,
    rows: np.ndarray,
    strangers: np.ndarray,
) -> Outcome:
    """Return the part of a ranking that scoring needs.

    Args:
        ranking: Ranking of the queries.
        image_ranks: Rank of the first right image, shape (Q,).
        queries: The right answers.
        nearest: Gallery position of the first answer's nearest image, shape (Q, at most 1).
        rows: Row of each gallery image, shape (N,).
        strangers: From `stranger_cosines`, shape (Q,).
    """
    return Outcome(
        ranks=find_ranks(ranking.individuals, queries.truth),
        image_ranks=image_ranks,
        cosines=ranking.cosines[:, :5].copy(),
        images=np.append(rows, -1)[first_column(nearest, -1)],
        new=queries.new,
        strangers=strangers,
    )


def fuse_outcome(
    outcome: Outcome, candidates: Candidates, queries: Queries, folds: np.ndarray, *, clusters: np.ndarray
) -> tuple[Outcome, FusionModel | None]:
    """Return the outcome of the fused scores, each query by a model fitted on the other folds, and the model of all.

    The ranks of images stay those of the embedding. With too few right candidates for a model in each fold, the
    outcome stays as it is, and there is no model.

    Args:
        outcome: Outcome of the same setting by the embedding alone.
        candidates: Candidates of the queries.
        queries: The right answers.
        folds: Fold of each query, shape (Q,).
        clusters: Cluster of each query, shape (Q,).
    """
    right = (candidates.individuals == queries.truth[:, None]) & queries.known[:, None]
    fitted = cross_fit(candidates.features, right, folds, images=queries.images, clusters=clusters)
    if fitted is None:
        return outcome, None
    ranking = candidates.ranked(fitted.scores)
    fused = replace(
        outcome,
        ranks=find_ranks(ranking.individuals, queries.truth),
        cosines=ranking.cosines[:, :5].copy(),
        images=first_column(ranking.images, -1),
    )
    return fused, fitted.model


def weights_over_individuals(labels: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Return 1 / the number of counted queries of the same individual; 0 for queries that do not count.

    >>> weights_over_individuals(np.array(["a", "b", "a", "a"]), np.array([True, True, True, False])).tolist()
    [0.5, 1.0, 0.5, 0.0]

    Args:
        labels: Individual of each query, shape (Q,).
        counted: Whether a query counts, bool, shape (Q,).

    Returns:
        Weights, float64, shape (Q,); the weights of an individual with a counted query sum to 1.
    """
    codes = np.unique(labels, return_inverse=True)[1]
    counts = np.bincount(codes, counted)[codes]
    weights = np.zeros(len(labels))
    weights[counted] = 1.0 / counts[counted]
    return weights


def join_queries(parts: Sequence[Queries]) -> Queries:
    """Return the queries of several galleries, concatenated."""
    return Queries(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Queries)))


def join_outcomes(parts: Sequence[Outcome]) -> Outcome:
    """Return the outcomes of several galleries, concatenated."""
    if len(parts) == 1:
        return parts[0]
    widest = max(part.cosines.shape[1] for part in parts)
    padded = [
        np.pad(one.cosines, ((0, 0), (0, widest - one.cosines.shape[1])), constant_values=np.nan) for one in parts
    ]
    names = ("ranks", "image_ranks", "images", "new", "strangers")
    return Outcome(
        cosines=np.concatenate(padded),
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names},
    )


def first_column(values: np.ndarray, absent: float) -> np.ndarray:
    """Return the first column of `values` (Q, R); `absent` if there is none.

    Args:
        values: Shape (Q, R).
        absent: Value for R = 0.
    """
    return values[:, 0] if values.shape[1] else np.full(len(values), absent, dtype=values.dtype)
