"""Evidence by shortlist: in large galleries a query is compared with the photographs nearest by the embedding alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from whale_ray.retrieval.local.evidence import VERIFIED, LocalEvidence, comparing_text, verify_leading
from whale_ray.retrieval.local.feature_store import LocalFeatureStore
from whale_ray.retrieval.local.learned.match_network import MatchNetwork
from whale_ray.retrieval.local.local_features import LocalFeatures
from whale_ray.retrieval.local.local_index import LocalIndex
from whale_ray.verbosity import track_steps

WHOLE_GALLERY_UP_TO = 20_000
"""Number of gallery photographs above which queries are compared with a shortlist."""
SHORTLIST = 100
"""Number of photographs of a shortlist."""


def shortlist_size(gallery: int) -> int:
    """Return the number of photographs that a query is compared with; 0 for the whole gallery.

    Args:
        gallery: Number of gallery photographs, the largest of all splits.
    """
    return SHORTLIST if gallery > WHOLE_GALLERY_UP_TO else 0


@dataclass(frozen=True)
class ShortlistEvidence:
    """Local evidence of Q queries on S gallery photographs each; that of all others is 0.

    Attributes:
        positions: Gallery photographs in ascending order, then -1 for none, int64, shape (Q, S).
        scores: LNBNN score of each of them, float32, shape (Q, S).
        individual_scores: LNBNN score of the individual of each of them, float32, shape (Q, S).
        inliers: Verified matches, float32, shape (Q, S).
        codes: Individual of each gallery photograph, shape (N,).
        names: The individuals, sorted, shape (C,).
        confidences: Confidences of the matches by a match network, float32, shape (Q, S); None without one.
    """

    positions: np.ndarray
    scores: np.ndarray
    individual_scores: np.ndarray
    inliers: np.ndarray
    codes: np.ndarray
    names: np.ndarray
    confidences: np.ndarray | None = None

    def of_queries(self, rows: np.ndarray) -> LocalEvidence:
        """Return the evidence of some queries on the whole gallery; `rows` are their positions, int, shape (q,)."""
        positions = self.positions[rows]
        query, column = np.nonzero(positions >= 0)
        places = positions[query, column]

        def on_gallery(values: np.ndarray) -> np.ndarray:
            spread = np.zeros((len(positions), len(self.codes)), np.float32)
            spread[query, places] = values[rows][query, column]
            return spread

        individuals = np.zeros((len(positions), len(self.names)), np.float32)
        individuals[query, self.codes[places]] = self.individual_scores[rows][query, column]
        confidences = None if self.confidences is None else on_gallery(self.confidences)
        return LocalEvidence(
            on_gallery(self.scores), individuals, on_gallery(self.inliers), self.names, confidences=confidences
        )


def compare_shortlists(
    queries: Sequence[LocalFeatures],
    index: LocalIndex,
    shortlist: np.ndarray,
    *,
    verified: int = VERIFIED,
    matcher: MatchNetwork | None = None,
    on_batch: Callable[[], None] = lambda: None,
    progress: bool = False,
) -> ShortlistEvidence:
    """Compare each query with its shortlist as if this were the whole gallery.

    The result for a query does not depend on the other queries.

    Args:
        queries: Features of the query photographs.
        index: The gallery; its whole is not searched, and needs no `prepare`.
        shortlist: Distinct positions of gallery photographs, int, shape (Q, S); -1 for none.
        verified: Number of leading photographs per query that are verified.
        matcher: Match network that finds the matches to verify, of at most 5 leading photographs.
        on_batch: Called before each query.
        progress: Show a progress bar.
    """
    count = len(index)
    positions = np.sort(np.where(shortlist < 0, count, shortlist).astype(np.int64), axis=1)
    positions = np.where(positions == count, -1, positions)
    scores, of_individuals = (np.zeros(positions.shape, np.float32) for _ in range(2))
    for row in track_steps(range(len(queries)), comparing_text(len(queries)), progress=progress):
        on_batch()
        columns = np.flatnonzero(positions[row] >= 0)
        columns = columns[index.kept[positions[row, columns]]]
        if len(columns) and len(queries[row]):
            part = index.subset(positions[row, columns])
            images, individuals = part.scores([queries[row]])
            scores[row, columns], of_individuals[row, columns] = images[0], individuals[0][part.codes]
    options: dict[str, Any] = {"positions": positions, "matcher": matcher}
    inliers, confidences = verify_leading(queries, index, scores, verified, on_batch, **options)
    return ShortlistEvidence(positions, scores, of_individuals, inliers, index.codes, index.names, confidences)


class ShortlistComparison:
    """Queries and gallery of one split, whose keypoints are compared once the shortlists are known.

    Shortlists depend on the encoder and on the transform of its vectors, so that each trial compares for itself. The
    same shortlists are compared once.

    Args:
        store: Features of all photographs.
        queries: Rows of the queries in the store, shape (Q,).
        gallery: Rows of the gallery in the store, shape (N,).
        individuals: Individual of each gallery photograph, N names.
        size: Number of photographs of a shortlist.
        matcher: Match network that finds the matches to verify; None for the mutually nearest descriptors.
    """

    def __init__(
        self,
        store: LocalFeatureStore,
        queries: np.ndarray | Sequence[int],
        gallery: np.ndarray | Sequence[int],
        individuals: np.ndarray | Sequence[str],
        *,
        size: int = SHORTLIST,
        matcher: MatchNetwork | None = None,
    ) -> None:
        self.size, self._matcher = size, matcher
        self._store, self._queries, self._gallery, self._individuals = store, queries, gallery, individuals
        self._compared: dict[bytes, ShortlistEvidence] = {}

    @property
    def count(self) -> int:
        """Number of queries."""
        return len(self._queries)

    @cached_property
    def _index(self) -> LocalIndex:
        return LocalIndex(self._store.subset(self._gallery), self._individuals)

    def compare(self, shortlist: np.ndarray) -> ShortlistEvidence:
        """Return the evidence of the queries on their shortlists, int, shape (Q, S); -1 for none."""
        key = hashlib.sha256(np.asarray(shortlist, dtype=np.int64).tobytes()).digest()
        if key not in self._compared:
            features = [self._store.of(int(row)) for row in np.asarray(self._queries)]
            self._compared[key] = compare_shortlists(features, self._index, shortlist, matcher=self._matcher)
        return self._compared[key]
