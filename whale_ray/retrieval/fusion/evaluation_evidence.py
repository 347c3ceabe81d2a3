"""Evidence of an evaluation: gathered before the trials, or compared by the shortlists of an embedding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from whale_ray.retrieval.fusion.encounter_evidence import EncounterEvidence
from whale_ray.retrieval.local.evidence import LocalEvidence
from whale_ray.retrieval.local.shortlists import ShortlistComparison, ShortlistEvidence
from whale_ray.retrieval.search.neighbor_search import find_images
from whale_ray.retrieval.search.pools import QueryGroup

EvidenceSource = LocalEvidence | ShortlistComparison
"""Evidence on the whole gallery, or the photographs whose shortlists an embedding gives."""
QueryEvidence = LocalEvidence | ShortlistEvidence | EncounterEvidence
"""Evidence of queries on a gallery; `of_queries` returns that of some of them on the whole gallery."""


def evidence_of(source: EvidenceSource, queries: np.ndarray, groups: Sequence[QueryGroup]) -> QueryEvidence:
    """Return the evidence of the queries of an embedding.

    Args:
        source: Evidence, or what has to be compared.
        queries: Unit vectors from `normalize_rows`, shape (Q, D).
        groups: The queries by pool.
    """
    if isinstance(source, ShortlistComparison):
        return source.compare(shortlist_by_embedding(queries, groups, source.size))
    return source


def evidence_of_encounters(
    source: EvidenceSource,
    photographs: Sequence[np.ndarray],
    encounters: np.ndarray,
    groups: Sequence[QueryGroup],
    *,
    allowed: np.ndarray | None = None,
) -> EncounterEvidence:
    """Return the evidence of encounters, whose photographs are compared with one shortlist, that of the encounter.

    Args:
        source: Evidence of queries, or what has to be compared.
        photographs: Positions of the photographs of each encounter among these queries; none is in two encounters.
        encounters: Unit vectors of the encounters, shape (E, D).
        groups: The encounters by pool.
        allowed: Gallery photographs that the shortlist of each encounter may hold, bool, shape (E, N); None for all.
    """
    if not isinstance(source, ShortlistComparison):
        return EncounterEvidence(source, tuple(photographs))
    nearest = shortlist_by_embedding(encounters, groups, source.size)
    if allowed is not None:
        nearest[~np.take_along_axis(allowed, nearest, axis=1)] = -1
    shortlists = np.full((source.count, source.size), -1, dtype=np.int64)
    for rows, shortlist in zip(photographs, nearest, strict=True):
        shortlists[rows] = shortlist
    return EncounterEvidence(source.compare(shortlists), tuple(photographs))


def held_out_evidence(evidence: LocalEvidence, photographs: Sequence[np.ndarray]) -> EncounterEvidence | None:
    """Return the evidence of encounters without their individual; None if it was not gathered for one of them.

    Args:
        evidence: Evidence of queries.
        photographs: Positions of the photographs of each encounter among these queries.
    """
    if (held_out := evidence.held_out) is None or not np.isin(np.concatenate(photographs), held_out.queries).all():
        return None
    return EncounterEvidence(held_out.evidence, tuple(np.searchsorted(held_out.queries, rows) for rows in photographs))


def size_of_shortlists(source: EvidenceSource) -> int:
    """Return the number of photographs of a shortlist; 0 if queries are compared with the whole gallery."""
    return source.size if isinstance(source, ShortlistComparison) else 0


def shortlist_by_embedding(queries: np.ndarray, groups: Sequence[QueryGroup], size: int) -> np.ndarray:
    """Return the gallery photographs nearest to each query in its pool, by the plain cosine of their vectors.

    Neither query expansion nor re-ranking has an effect, so that settings share shortlists. Ties are ordered by
    individual, then by gallery order. A shortlist does not depend on the other queries.

    Args:
        queries: Unit vectors from `normalize_rows`, shape (Q, D).
        groups: The queries by pool.
        size: Number of photographs.

    Returns:
        Gallery rows, nearest first, int64, shape (Q, size); -1 where the pool has no more.
    """
    shortlist = np.full((len(queries), size), -1, dtype=np.int64)
    for group in groups:
        index = group.pool.searcher.index
        if len(index) and len(group.queries):
            positions, _ = find_images(queries[group.queries], index, size)
            rows = group.pool.gallery_rows(np.append(index.rows, -1)[positions])
            shortlist[group.queries, : rows.shape[1]] = rows
    return shortlist
