"""Matched keypoints of the candidates of an answer, and the lines that join them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from whale_ray.inference.predictions import Candidate, Gallery, Identification, MatchedPhotograph
from whale_ray.retrieval.fusion.encounter_evidence import EncounterEvidence
from whale_ray.retrieval.fusion.evaluation_evidence import QueryEvidence
from whale_ray.retrieval.local.learned.match_network import MatchNetwork
from whale_ray.retrieval.local.local_features import LocalFeatures
from whale_ray.retrieval.local.verification import verify
from whale_ray.retrieval.search.pools import Pool

_DECIMALS = 4  # of a point, as a share of a side


def add_matched_points(
    answers: Sequence[Identification],
    evidence: QueryEvidence,
    gallery: Gallery,
    pools: Sequence[Pool],
    *,
    fused: Sequence[bool],
) -> list[Identification]:
    """Return the answers with the number of matched points of each candidate, and its photograph that has most.

    Of several photographs of one animal, that with the most matched points counts.

    Args:
        answers: Answers to Q queries.
        evidence: Local evidence of the queries on the gallery.
        gallery: The gallery.
        pools: Part of the gallery that each query was searched in.
        fused: Queries that were ranked by keypoints too; the answers to others stay as they are.
    """
    return [
        _with_points(answer, _most_points(evidence, query, gallery, pools[query]), gallery) if fused[query] else answer
        for query, answer in enumerate(answers)
    ]


def add_match_lines(
    answer: Identification, query: LocalFeatures, gallery: Gallery, *, matcher: MatchNetwork | None = None
) -> Identification:
    """Return the answer with the lines that join the matched points of the query and of each candidate.

    Args:
        answer: From `add_matched_points`, for the same gallery.
        query: Local features of the query.
        gallery: The gallery.
        matcher: Network that matched them; None for the mutually nearest descriptors.
    """
    return replace(answer, candidates=tuple(_with_lines(one, query, gallery, matcher) for one in answer.candidates))


def _most_points(evidence: QueryEvidence, query: int, gallery: Gallery, pool: Pool) -> dict[str, tuple[int, int]]:
    """Return the most matched points of each individual, and the gallery row of that photograph."""
    row = np.array([query])
    asked = evidence.largest_of_queries(row) if isinstance(evidence, EncounterEvidence) else evidence.of_queries(row)
    inliers, scores = asked.inliers[0], asked.scores[0]
    rows = np.intersect1d(np.flatnonzero(inliers), pool.rows)
    found: dict[str, tuple[int, int]] = {}
    for row in sorted(rows.tolist(), key=lambda row: (-inliers[row], -scores[row], row)):
        found.setdefault(gallery.individuals[row], (int(inliers[row]), row))
    return found


def _with_points(answer: Identification, most: dict[str, tuple[int, int]], gallery: Gallery) -> Identification:
    def counted(candidate: Candidate) -> Candidate:
        if candidate.individual not in most:
            return replace(candidate, matched_points=0)
        points, row = most[candidate.individual]
        return replace(candidate, matched_points=points, matched=MatchedPhotograph(gallery.images[row], row))

    return replace(answer, candidates=tuple(map(counted, answer.candidates)))


def _with_lines(
    candidate: Candidate, query: LocalFeatures, gallery: Gallery, matcher: MatchNetwork | None
) -> Candidate:
    if candidate.matched is None or gallery.keypoints is None:
        return candidate
    matches = verify(query, gallery.keypoints.features(candidate.matched.row), matcher=matcher).matches
    ends = np.round(matches.reshape(-1, 4).astype(float), _DECIMALS).tolist()
    return replace(candidate, matched=replace(candidate.matched, lines=tuple(map(tuple, ends))))
