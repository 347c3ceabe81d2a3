"""Candidates of queries: the first individuals by embedding and by local evidence, with their features.

One function gathers them for the sweep and for the service, so that both give the same scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np

from whale_ray.retrieval.fusion.candidate_features import (
    COHORT_SCORES,
    MATCHER_SCORES,
    SCORES,
    candidate_features,
    feature_names,
    features_without,
)
from whale_ray.retrieval.fusion.evaluation_evidence import QueryEvidence
from whale_ray.retrieval.fusion.stranger_cohort import Cohort
from whale_ray.retrieval.search.gallery_index import GalleryIndex
from whale_ray.retrieval.search.neighbor_search import nearest_images
from whale_ray.retrieval.search.pools import Pool, QueryGroup
from whale_ray.retrieval.search.retrieval_settings import SearchMode
from whale_ray.retrieval.search.voting import NO_CANDIDATE, Ranking

BY_EMBEDDING: Final = 50
"""First individuals of the ranking by embedding that are candidates."""
BY_EVIDENCE: Final = 10
"""First individuals by each LNBNN score that are candidates."""
_SCALE = 10.0  # of LNBNN scores, before their logarithm: most are between 0 and 2
_QUERIES = 256  # whose candidates are gathered together
_CELLS = 2**22  # of queries by gallery photographs that are held at once


@dataclass(frozen=True)
class Candidates:
    """Candidates of Q queries; those of the ranking by embedding first, in its order.

    Attributes:
        individuals: Codes, -1 for no candidate, shape (Q, R).
        images: Gallery row of the nearest vector, likewise.
        features: From `candidate_features`, shape (Q, R, F).
    """

    individuals: np.ndarray
    images: np.ndarray
    features: np.ndarray

    def ranked(self, scores: np.ndarray) -> Ranking:
        """Return the candidates by fused score, shape (Q, R); equal scores keep their order.

        The first score of a query without candidates among others that have some is `NO_CANDIDATE`.
        """
        order = np.argsort(np.where(np.isnan(scores), np.inf, -scores), axis=1, kind="stable")
        if scores.shape[1]:
            scores = scores.copy()
            scores[self.individuals[:, 0] < 0, 0] = NO_CANDIDATE
        parts = (self.individuals, scores, self.images)
        return Ranking(*(np.take_along_axis(part, order, axis=1) for part in parts))

    def of_queries(self, rows: np.ndarray) -> Candidates:
        """Return the candidates of some queries; `rows` are their positions, int, shape (q,)."""
        return Candidates(self.individuals[rows], self.images[rows], self.features[rows])

    def without(self, removed: np.ndarray) -> Candidates:
        """Return the candidates as if some of them, bool, shape (Q, R), were not in the gallery."""
        features = features_without(self.features, removed)
        order = np.argsort(removed | (self.individuals < 0), axis=1, kind="stable")
        codes, images = (np.where(removed, -1, part) for part in (self.individuals, self.images))
        return Candidates(
            np.take_along_axis(codes, order, axis=1),
            np.take_along_axis(images, order, axis=1),
            np.take_along_axis(features, order[:, :, None], axis=1),
        )


def gather_candidates(
    queries: np.ndarray,
    groups: Sequence[QueryGroup],
    rankings: Sequence[Ranking],
    mode: SearchMode,
    evidence: QueryEvidence,
    cohort: Cohort | None = None,
) -> Candidates:
    """Return the candidates of queries; codes and rows are those of the gallery.

    Args:
        queries: Unit vectors from `normalize_rows`, shape (Q, D).
        groups: The queries by pool.
        rankings: Ranking by embedding of each group, in its pool.
        mode: Search mode of the rankings.
        evidence: Local evidence of the queries on the gallery.
        cohort: Photographs of unknown animals; None for no features by them.
    """
    parts = []
    for group, ranking in zip(groups, rankings, strict=True):
        part = gather_in_pool(queries[group.queries], group, ranking, mode, evidence, cohort)
        codes, images = group.pool.gallery_codes(part.individuals), group.pool.gallery_rows(part.images)
        parts.append(Candidates(codes, images, part.features))
    found = join_candidates(parts)
    order = np.argsort(np.concatenate([group.queries for group in groups]))
    return Candidates(*(getattr(found, each.name)[order] for each in fields(Candidates)))


def gather_in_pool(
    vectors: np.ndarray,
    group: QueryGroup,
    ranking: Ranking,
    mode: SearchMode,
    evidence: QueryEvidence,
    cohort: Cohort | None = None,
) -> Candidates:
    """Return the candidates of the queries of one group; codes and rows are those of its pool.

    Args:
        vectors: Unit vectors of these queries from `normalize_rows`, shape (q, D).
        group: The queries and their pool.
        ranking: Their ranking by embedding, in the pool.
        mode: Search mode of the ranking: it expands queries and gallery.
        evidence: Local evidence of all queries on the whole gallery.
        cohort: Photographs of unknown animals; None for no features by them.
    """
    searched, index = group.pool.searcher.expand(vectors, mode)
    parts = []
    size = max(1, min(_QUERIES, _CELLS // max(len(group.pool.rows), 1)))
    for start in range(0, max(len(vectors), 1), size):
        part = slice(start, start + size)
        local = _LocalScores.of_pool(evidence, group.queries[part], group.pool, index)
        ranked = ranking.individuals[part, :BY_EMBEDDING]
        codes = _candidate_codes(ranked, local)
        parts.append(_candidates(searched[part], codes, ranked.shape[1], index, local, cohort))
    return join_candidates(parts)


def join_candidates(parts: Sequence[Candidates]) -> Candidates:
    """Return the candidates of several groups of queries, one group after the other."""
    width = max(part.individuals.shape[1] for part in parts)
    absent = {"individuals": -1, "images": -1, "features": np.nan}
    return Candidates(
        *(
            np.concatenate([_widened(getattr(part, each.name), width, absent[each.name]) for part in parts])
            for each in fields(Candidates)
        )
    )


@dataclass(frozen=True)
class _LocalScores:
    """LNBNN score of each individual of a pool, of its best photograph, and its most inliers, each (Q, C).

    Attributes:
        confidences: Largest sum of confidences by a match network; None without one.
    """

    individuals: np.ndarray
    photographs: np.ndarray
    inliers: np.ndarray
    confidences: np.ndarray | None

    @classmethod
    def of_pool(cls, evidence: QueryEvidence, queries: np.ndarray, pool: Pool, index: GalleryIndex) -> _LocalScores:
        """Return the scores of some queries.

        Args:
            evidence: Local evidence of all queries on the whole gallery.
            queries: Positions of the queries, shape (Q,).
            pool: The pool.
            index: Index of the pool's photographs.
        """
        rows = pool.rows[index.rows]  # gallery rows in the order of the index
        asked = evidence.of_queries(queries)
        largest = [
            np.maximum.reduceat(values[:, rows], index.starts, axis=1) if len(rows) else np.zeros((len(values), 0))
            for values in (asked.scores, asked.inliers, asked.confidences)
            if values is not None
        ]
        confidences = None if asked.confidences is None else largest[2]
        places = np.searchsorted(asked.names, index.names)  # the evidence may have individuals of other pools
        return cls(asked.individual_scores[:, places], largest[0], largest[1], confidences)

    def of_candidates(self, codes: np.ndarray) -> list[np.ndarray]:
        """Return the logarithms of the scores of candidates, each (Q, R), NaN for no candidate."""
        given = (_SCALE * self.individuals, _SCALE * self.photographs, self.inliers, self.confidences)
        return [
            np.log1p(np.where(codes < 0, np.nan, np.take_along_axis(values, np.maximum(codes, 0), axis=1)))
            for values in given
            if values is not None
        ]


def _candidate_codes(ranked: np.ndarray, local: _LocalScores) -> np.ndarray:
    """Return the ranked individuals, then those that lead by local evidence alone; -1 pads. Shape (Q, R)."""
    codes = np.concatenate([ranked, *map(_leading, (local.individuals, local.photographs))], axis=1)
    is_repeated = np.tril(codes[:, :, None] == codes[:, None, :], -1).any(axis=2)
    codes = np.where(is_repeated, -1, codes)
    further = codes[:, ranked.shape[1] :]
    order = np.argsort(further < 0, axis=1, kind="stable")
    further = np.take_along_axis(further, order, axis=1)
    return np.concatenate([ranked, further[:, (further >= 0).any(axis=0)]], axis=1)


def _leading(scores: np.ndarray) -> np.ndarray:
    """Return the individuals with the largest scores above 0, ties by name; -1 pads."""
    leading = np.argsort(-scores, axis=1, kind="stable")[:, :BY_EVIDENCE]
    return np.where(np.take_along_axis(scores, leading, axis=1) > 0, leading, -1)


def _candidates(
    queries: np.ndarray,
    codes: np.ndarray,
    ranked: int,
    index: GalleryIndex,
    local: _LocalScores,
    cohort: Cohort | None,
) -> Candidates:
    """Return the candidates with these codes, the first `ranked` of which are the ranking by embedding."""
    if not codes.size:
        names = (*(SCORES if local.confidences is None else MATCHER_SCORES), *(() if cohort is None else COHORT_SCORES))
        return Candidates(codes, codes, np.zeros((*codes.shape, len(feature_names(names)) + 1)))
    nearest, images = nearest_images(queries, index, codes)
    mean, _ = nearest_images(queries, index.centroids, codes)
    ranks = np.broadcast_to(np.minimum(np.arange(codes.shape[1]), ranked) + 1, codes.shape)
    normalized = [] if cohort is None else cohort.normalize(queries, index, codes, (nearest, mean))
    scores = np.stack([nearest, mean, *local.of_candidates(codes), *normalized])
    return Candidates(codes, images, candidate_features(ranks, scores, index.images_per_individual[codes]))


def _widened(values: np.ndarray, width: int, absent: float) -> np.ndarray:
    padding = [(0, 0)] * values.ndim
    padding[1] = (0, width - values.shape[1])
    return np.pad(values, padding, constant_values=absent)
