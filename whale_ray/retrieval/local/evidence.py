"""Local evidence: keypoint scores of queries against a gallery, and the inliers of the leading photographs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import joblib
import numpy as np

from whale_ray.retrieval.local.feature_store import LocalFeatureStore
from whale_ray.retrieval.local.local_features import LocalFeatures
from whale_ray.retrieval.local.local_index import LocalIndex
from whale_ray.retrieval.local.verification import verify
from whale_ray.verbosity import track_steps

VERIFIED = 10
"""Number of leading photographs per query that are verified."""
WHOLE_GALLERY_UP_TO = 20_000
"""Number of gallery photographs above which queries should be compared with a shortlist."""
_QUERIES = 32  # compared together


@dataclass(frozen=True)
class LocalEvidence:
    """Local evidence of Q queries on N gallery photographs of C individuals.

    Attributes:
        scores: LNBNN score of each photograph, float32, shape (Q, N), 0 or more.
        individual_scores: LNBNN score of each individual, float32, shape (Q, C), 0 or more.
        inliers: Verified matches, float32, shape (Q, N); 0 where a photograph was not verified.
        names: The individuals, sorted, shape (C,).
    """

    scores: np.ndarray
    individual_scores: np.ndarray
    inliers: np.ndarray
    names: np.ndarray


def gather_evidence(
    store: LocalFeatureStore,
    queries: np.ndarray | Sequence[int],
    gallery: np.ndarray | Sequence[int],
    individuals: np.ndarray | Sequence[str],
    *,
    verified: int = VERIFIED,
    allowed: np.ndarray | None = None,
    shortlist: np.ndarray | None = None,
    on_batch: Callable[[], None] = lambda: None,
    progress: bool = False,
) -> LocalEvidence:
    """Return the evidence of photographs in a store: that of `compare_features`, or of `compare_shortlists`.

    Args:
        store: Features of all photographs.
        queries: Rows of the queries in the store, shape (Q,).
        gallery: Rows of the gallery in the store, shape (N,).
        individuals: Individual of each gallery photograph, N names.
        verified: Number of leading photographs per query that are verified.
        allowed: Gallery photographs that may answer each query, bool, shape (Q, N); None for all.
        shortlist: Positions of the gallery photographs that each query is compared with, int, shape (Q, S), -1 for
            none; None compares with the whole gallery.
        on_batch: Called before each batch of queries.
        progress: Show a progress bar.
    """
    features = [store.of(int(row)) for row in np.asarray(queries)]
    index = LocalIndex(store.subset(gallery), individuals)
    if shortlist is None:
        return compare_features(
            features, index, verified=verified, allowed=allowed, on_batch=on_batch, progress=progress
        )
    return compare_shortlists(
        features, index, shortlist, verified=verified, allowed=allowed, on_batch=on_batch, progress=progress
    )


def compare_features(
    queries: Sequence[LocalFeatures],
    index: LocalIndex,
    *,
    verified: int = VERIFIED,
    allowed: np.ndarray | None = None,
    on_batch: Callable[[], None] = lambda: None,
    progress: bool = False,
) -> LocalEvidence:
    """Compare queries with the whole gallery and verify the leading photographs of each.

    Args:
        queries: Features of the query photographs.
        index: The gallery.
        verified: Number of leading photographs per query that are verified.
        allowed: Gallery photographs that may answer each query, bool, shape (Q, N); None for all.
        on_batch: Called before each batch of queries.
        progress: Show a progress bar.
    """
    evidence = _no_evidence(len(queries), index)
    batches = list(_batches(len(queries), allowed))
    for rows, permitted in track_steps(batches, _comparing(len(queries)), progress=progress):
        on_batch()
        asked = [queries[row] for row in rows]
        evidence.scores[rows], evidence.individual_scores[rows] = index.scores(asked, permitted)
    return _verify_leading(queries, index, evidence, verified, on_batch)


def compare_shortlists(
    queries: Sequence[LocalFeatures],
    index: LocalIndex,
    shortlist: np.ndarray,
    *,
    verified: int = VERIFIED,
    allowed: np.ndarray | None = None,
    on_batch: Callable[[], None] = lambda: None,
    progress: bool = False,
) -> LocalEvidence:
    """Compare each query with a shortlist of the gallery, as if this were the whole gallery.

    For galleries above `WHOLE_GALLERY_UP_TO`: their descriptors are not indexed.

    Args:
        queries: Features of the query photographs.
        index: The gallery; its whole is not searched, and needs no `prepare`.
        shortlist: Positions of gallery photographs, int, shape (Q, S); -1 for none.
        verified: Number of leading photographs per query that are verified.
        allowed: Gallery photographs that may answer each query, bool, shape (Q, N); None for all.
        on_batch: Called before each query.
        progress: Show a progress bar.
    """
    evidence = _no_evidence(len(queries), index)
    for row in track_steps(range(len(queries)), _comparing(len(queries)), progress=progress):
        on_batch()
        positions = np.unique(shortlist[row][shortlist[row] >= 0])
        if allowed is not None:
            positions = positions[allowed[row, positions]]
        part = index.subset(positions)
        scores, totals = part.scores([queries[row]])
        evidence.scores[row, positions] = scores[0]
        evidence.individual_scores[row, np.searchsorted(index.names, part.names)] = totals[0]
    return _verify_leading(queries, index, evidence, verified, on_batch)


def _comparing(queries: int) -> str:
    return f"comparing keypoints of {queries} photographs"


def _no_evidence(queries: int, index: LocalIndex) -> LocalEvidence:
    images, individuals = np.zeros((queries, len(index)), np.float32), np.zeros((queries, len(index.names)), np.float32)
    return LocalEvidence(images, individuals, np.zeros_like(images), index.names)


def _batches(count: int, allowed: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yield rows of queries that share the photographs they may be answered by, and these photographs."""
    groups: list[tuple[np.ndarray, np.ndarray | None]] = [(np.arange(count), None)]
    if allowed is not None:
        masks, group = np.unique(allowed, axis=0, return_inverse=True)
        groups = [(np.flatnonzero(group == place), mask) for place, mask in enumerate(masks)]
    for rows, mask in groups:
        for start in range(0, len(rows), _QUERIES):
            yield rows[start : start + _QUERIES], mask


def _verify_leading(
    queries: Sequence[LocalFeatures],
    index: LocalIndex,
    evidence: LocalEvidence,
    verified: int,
    on_batch: Callable[[], None],
) -> LocalEvidence:
    """Write the inliers of the photographs with the largest scores, ties by position, and return the evidence."""

    def verify_query(row: int) -> None:
        scores = evidence.scores[row]
        leading = np.argsort(-scores, kind="stable")[:verified]
        for place in leading[scores[leading] > 0]:
            evidence.inliers[row, place] = verify(queries[row], index.features(int(place))).inliers

    if verified and len(queries) == 1:  # of a service: no threads to start
        verify_query(0)
    elif verified:
        with ThreadPoolExecutor(joblib.cpu_count()) as pool:
            for _ in pool.map(verify_query, range(len(queries))):
                on_batch()
    return evidence
