"""Local evidence of encounters: the mean of that of their photographs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from whale_ray.retrieval.local.evidence import LocalEvidence, read_evidence
from whale_ray.retrieval.local.shortlists import ShortlistEvidence


@dataclass(frozen=True)
class EncounterEvidence:
    """Local evidence of Q queries, each of one or more photographs of one animal.

    Attributes:
        photographs: Evidence of all photographs.
        rows: Positions of the photographs of each query.
    """

    photographs: LocalEvidence | ShortlistEvidence
    rows: tuple[np.ndarray, ...]

    def of_queries(self, rows: np.ndarray) -> LocalEvidence:
        """Return the mean evidence of some queries on the whole gallery; `rows` are their positions, int, shape (q,).

        The order of photographs has no effect: scores are summed in float64.
        """
        return self._reduced(rows, lambda values: values.mean(axis=0, dtype=np.float64))

    def largest_of_queries(self, rows: np.ndarray) -> LocalEvidence:
        """Return the largest evidence of a photograph of some queries; `rows` as in `of_queries`."""
        return self._reduced(rows, lambda values: values.max(axis=0))

    def _reduced(self, rows: np.ndarray, reduce: Callable[[np.ndarray], np.ndarray]) -> LocalEvidence:
        parts = [self.photographs.of_queries(self.rows[row]) for row in rows]  # one encounter at a time, for memory
        if not parts:
            return self.photographs.of_queries(np.arange(0))
        reduced = {
            name: np.stack([reduce(getattr(part, name)) for part in parts]).astype(np.float32)
            for name in parts[0].arrays()
            if name != "names"
        }
        return read_evidence(reduced | {"names": self.photographs.names})
