"""Pair probabilities: for each two photographs, the probability that they show the same animal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.special import expit

from whale_ray.discovery.pair_features import LOCAL_FEATURE, candidate_features, dense_features, keypoint_feature
from whale_ray.discovery.pair_model import PairModel

DENSE_UP_TO = 5_000
"""Number of photographs up to which all pairs are kept; above, the pairs of nearest photographs are."""
CANDIDATES = 50
"""Nearest photographs that each photograph is paired with above `DENSE_UP_TO`."""


@dataclass(frozen=True)
class PairProbabilities:
    """Symmetric probabilities that two of N photographs show the same animal.

    Attributes:
        matrix: float32, shape (N, N), zero diagonal: an array, or a sparse matrix without the pairs that are not
            candidates (their probability counts as 0).
    """

    matrix: np.ndarray | sparse.csr_array

    def __len__(self) -> int:
        return int(self.matrix.shape[0])

    @property
    def is_dense(self) -> bool:
        """True if the matrix holds all pairs."""
        return isinstance(self.matrix, np.ndarray)

    def row(self, photograph: int) -> np.ndarray:
        """Return the probabilities of one photograph with each other, float32, shape (N,)."""
        if isinstance(self.matrix, np.ndarray):
            return np.asarray(self.matrix[photograph])
        return np.asarray(self.matrix[[photograph]].toarray()[0])

    def between(self, first: int, second: int) -> float:
        """Return the probability of one pair, 0 to 1."""
        return float(self.matrix[first, second])

    def block(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the probabilities of photographs with others, float32, shape (R, C).

        Args:
            rows: Photographs, int, shape (R,).
            columns: Photographs, int, shape (C,).
        """
        if isinstance(self.matrix, np.ndarray):
            return np.asarray(self.matrix[np.ix_(rows, columns)])
        return np.asarray(self.matrix[rows][:, columns].toarray())

    def candidates(self, least: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the pairs above a probability: smaller photographs, larger photographs, probabilities, each (P,).

        Args:
            least: Probability that a pair must exceed.
        """
        if isinstance(self.matrix, np.ndarray):
            first, second = np.nonzero(np.triu(self.matrix > least, 1))
            return first, second, self.matrix[first, second]
        upper = sparse.triu(self.matrix, 1).tocoo()
        kept = upper.data > least
        return upper.row[kept].astype(np.int64), upper.col[kept].astype(np.int64), upper.data[kept]


def compare_photographs(
    vectors: np.ndarray, model: PairModel, *, local_scores: np.ndarray | None = None, share: float | None = None
) -> PairProbabilities:
    """Return the pair probabilities of N photographs: of all pairs, or of candidates above `DENSE_UP_TO`.

    Args:
        vectors: Vectors of the photographs, shape (N, D).
        model: The pair model.
        local_scores: Keypoint score of each photograph against each other, shape (N, N), if the model uses it.
        share: Expected share of pairs that show the same animal, between 0 and 1, excluded; None expects as many
            photographs of each animal as the model was fitted on.

    Raises:
        ValueError: If the model uses keypoint scores and there are none.
    """
    count = len(vectors)
    if LOCAL_FEATURE in model.weights and local_scores is None:
        raise ValueError("the pair model uses keypoint scores, but got none. Pass local_scores, or fit without")
    if not count:
        return PairProbabilities(np.zeros((0, 0), dtype=np.float32))
    model = model.for_photographs(count) if share is None else model.at_share(share)
    if count > DENSE_UP_TO:
        return PairProbabilities(_candidate_matrix(vectors, model, local_scores))
    matrix = expit(model.log_odds(dense_features(vectors, local_scores))).astype(np.float32)
    np.fill_diagonal(matrix, 0.0)
    return PairProbabilities(matrix)


def _candidate_matrix(vectors: np.ndarray, model: PairModel, local_scores: np.ndarray | None) -> sparse.csr_array:
    """Return the probabilities of the pairs of which one is among the other's nearest `CANDIDATES`."""
    first, second, features = candidate_features(vectors, CANDIDATES)
    if local_scores is not None:
        means = (local_scores[first, second] + local_scores[second, first]) / 2
        features[LOCAL_FEATURE] = keypoint_feature(means)
    values = expit(model.log_odds(features)).astype(np.float32)
    half = sparse.coo_array((values, (first, second)), shape=(len(vectors), len(vectors)))
    return sparse.csr_array(half + half.T)
