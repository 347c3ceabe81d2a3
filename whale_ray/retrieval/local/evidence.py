"""Local evidence: keypoint scores of queries against a gallery, and the inliers of the leading photographs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from whale_ray.device import available_cpus
from whale_ray.retrieval.local.feature_store import LocalFeatureStore
from whale_ray.retrieval.local.learned.match_network import MATCHED, MatchNetwork
from whale_ray.retrieval.local.local_features import LocalFeatures
from whale_ray.retrieval.local.local_index import LocalIndex
from whale_ray.retrieval.local.verification import verify
from whale_ray.verbosity import track_steps

VERIFIED = 10
"""Number of leading photographs per query that are verified."""
_QUERIES = 32  # compared together


@dataclass(frozen=True)
class LocalEvidence:
    """Local evidence of Q queries on N gallery photographs of C individuals.

    Attributes:
        scores: LNBNN score of each photograph, float32, shape (Q, N), 0 or more.
        individual_scores: LNBNN score of each individual, float32, shape (Q, C), 0 or more.
        inliers: Verified matches, float32, shape (Q, N); 0 where a photograph was not verified.
        names: The individuals, sorted, shape (C,).
        held_out: Evidence of some queries as if their individual were not in the gallery; None if it was not gathered.
        confidences: Sum of the confidences of the matches by a match network, float32, shape (Q, N); 0 where it was not
            run. None without a match network.
    """

    scores: np.ndarray
    individual_scores: np.ndarray
    inliers: np.ndarray
    names: np.ndarray
    held_out: HeldOutEvidence | None = None
    confidences: np.ndarray | None = None

    def of_queries(self, rows: np.ndarray) -> LocalEvidence:
        """Return the evidence of some queries; `rows` are their positions, int, shape (q,)."""
        return read_evidence({name: array if name == "names" else array[rows] for name, array in self.arrays().items()})

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of this evidence by name; `read_evidence` makes it again."""
        confidences = {} if self.confidences is None else {_CONFIDENCES: self.confidences}
        return {name: getattr(self, name) for name in EVIDENCE_ARRAYS} | confidences


@dataclass(frozen=True)
class HeldOutEvidence:
    """Evidence of queries that are compared without the photographs of their own individual.

    The own photographs take part in the evidence of all others, since a match counts by how much nearer it is than the
    nearest descriptor of another individual. It is not enough to leave the own individual out of a ranking.

    Attributes:
        queries: Positions of these queries among all, ascending, shape (P,).
        evidence: Their evidence.
    """

    queries: np.ndarray
    evidence: LocalEvidence


EVIDENCE_ARRAYS: Final = ("scores", "individual_scores", "inliers", "names")
"""Arrays that all evidence has."""
_CONFIDENCES = "confidences"


def read_evidence(arrays: Mapping[str, np.ndarray], *, prefix: str = "") -> LocalEvidence:
    """Return the evidence with these arrays, without `held_out`.

    Args:
        arrays: Result of `LocalEvidence.arrays`, each name after the prefix.
        prefix: Begins the name of each array.

    Raises:
        KeyError: If an array is missing.
    """
    found: dict[str, Any] = {name: arrays[f"{prefix}{name}"] for name in EVIDENCE_ARRAYS}
    return LocalEvidence(**found, confidences=arrays.get(f"{prefix}{_CONFIDENCES}"))


def gather_evidence(
    store: LocalFeatureStore,
    queries: np.ndarray | Sequence[int],
    gallery: np.ndarray | Sequence[int],
    individuals: np.ndarray | Sequence[str],
    *,
    verified: int = VERIFIED,
    matcher: MatchNetwork | None = None,
    allowed: np.ndarray | None = None,
    on_batch: Callable[[], None] = lambda: None,
    progress: bool = False,
) -> LocalEvidence:
    """Return the evidence of photographs in a store, compared by `compare_features`.

    Args:
        store: Features of all photographs.
        queries: Rows of the queries in the store, shape (Q,).
        gallery: Rows of the gallery in the store, shape (N,).
        individuals: Individual of each gallery photograph, N names.
        verified: Number of leading photographs per query that are verified.
        matcher: Match network that finds the matches to verify, of at most 5 leading photographs.
        allowed: Gallery photographs that may answer each query, bool, shape (Q, N); None for all.
        on_batch: Called before each batch of queries.
        progress: Show a progress bar.
    """
    features = [store.of(int(row)) for row in np.asarray(queries)]
    index = LocalIndex(store.subset(gallery), individuals)
    options: dict[str, Any] = {"allowed": allowed, "on_batch": on_batch, "progress": progress}
    return compare_features(features, index, verified=verified, matcher=matcher, **options)


def compare_features(
    queries: Sequence[LocalFeatures],
    index: LocalIndex,
    *,
    verified: int = VERIFIED,
    matcher: MatchNetwork | None = None,
    allowed: np.ndarray | None = None,
    on_batch: Callable[[], None] = lambda: None,
    progress: bool = False,
) -> LocalEvidence:
    """Compare queries with the whole gallery and verify the leading photographs of each.

    Args:
        queries: Features of the query photographs.
        index: The gallery.
        verified: Number of leading photographs per query that are verified.
        matcher: Match network that finds the matches to verify, of at most 5 leading photographs.
        allowed: Gallery photographs that may answer each query, bool, shape (Q, N); None for all.
        on_batch: Called before each batch of queries.
        progress: Show a progress bar.
    """
    scores = np.zeros((len(queries), len(index)), np.float32)
    of_individuals = np.zeros((len(queries), len(index.names)), np.float32)
    batches = list(_batches(len(queries), allowed))
    for rows, permitted in track_steps(batches, comparing_text(len(queries)), progress=progress):
        on_batch()
        asked = [queries[row] for row in rows]
        scores[rows], of_individuals[rows] = index.scores(asked, permitted)
    inliers, confidences = verify_leading(queries, index, scores, verified, on_batch, matcher=matcher)
    return LocalEvidence(scores, of_individuals, inliers, index.names, confidences=confidences)


def comparing_text(queries: int) -> str:
    """Return the label of the progress bar for a number of queries."""
    return f"comparing keypoints of {queries} photographs"


def _batches(count: int, allowed: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yield rows of queries that share the photographs they may be answered by, and these photographs."""
    groups: list[tuple[np.ndarray, np.ndarray | None]] = [(np.arange(count), None)]
    if allowed is not None:
        masks, group = np.unique(allowed, axis=0, return_inverse=True)
        groups = [(np.flatnonzero(group == place), mask) for place, mask in enumerate(masks)]
    for rows, mask in groups:
        for start in range(0, len(rows), _QUERIES):
            yield rows[start : start + _QUERIES], mask


def verify_leading(
    queries: Sequence[LocalFeatures],
    index: LocalIndex,
    scores: np.ndarray,
    verified: int,
    on_batch: Callable[[], None],
    *,
    positions: np.ndarray | None = None,
    matcher: MatchNetwork | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the inliers of the photographs with the largest scores above 0, and the confidences of their matches.

    Both are float32, shape (Q, S), 0 for the other photographs. Without a match network there are no confidences.

    Args:
        queries: Features of the query photographs.
        index: The gallery.
        scores: Score of each photograph, ties by place, shape (Q, S).
        verified: Number of leading photographs per query that are verified.
        on_batch: Called after each query.
        positions: Gallery position of each score, shape (Q, S); None if they are the whole gallery.
        matcher: Match network that finds the matches to verify, of at most 5 leading photographs.
    """
    inliers, confidences = np.zeros_like(scores), np.zeros_like(scores)
    verified = verified if matcher is None else min(verified, MATCHED)

    def verify_query(row: int) -> None:
        leading = np.argsort(-scores[row], kind="stable")[:verified]
        for place in leading[scores[row, leading] > 0]:
            position = place if positions is None else positions[row, place]
            found = verify(queries[row], index.features(int(position)), matcher=matcher)
            inliers[row, place], confidences[row, place] = found.inliers, found.confidence

    if verified and len(queries) == 1:  # of a service: no threads to start
        verify_query(0)
    elif verified:
        with ThreadPoolExecutor(available_cpus()) as pool:
            for _ in pool.map(verify_query, range(len(queries))):
                on_batch()
    return inliers, None if matcher is None else confidences
