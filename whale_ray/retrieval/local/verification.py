"""Geometric verification: the matches of two photographs that agree with one affine transformation.

Ratio, tolerance and limits were chosen on photographs: see docs/experiments/local-evidence.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from whale_ray.retrieval.local.learned.match_network import MatchNetwork
from whale_ray.retrieval.local.local_features import LocalFeatures

MAX_RATIO = 0.8
"""Largest ratio of the distances to the nearest and the second nearest descriptor (Lowe, IJCV 2004)."""
TOLERANCE = 0.06
"""Largest distance of an inlier from its place, as a share of the picture: animals are not rigid."""
LEAST_MATCHES = 4
MAX_SCALE = 4.0
"""Largest and, inverted, smallest scale of a plausible transformation."""
MAX_STRETCH = 3.0
"""Largest ratio of its two scales: of a plane seen at an angle, in a box of another shape."""
_SCALE = 1000.0  # of the points that USAC sees: its own tolerances are meant for pixels
_ROUNDS = 1000
_CONFIDENCE = 0.999


@dataclass(frozen=True)
class Verified:
    """Result of the verification of one pair of photographs.

    Attributes:
        inliers: Number of matches that agree with the transformation; 0 if there is none.
        matches: Points of these matches in the query and in the candidate, float32, shape (inliers, 2, 2), in the
            coordinates of `LocalFeatures.points`.
        tentative: Number of matches before the verification.
        confidence: Sum of the confidences of these matches by a match network; 0 without one.
    """

    inliers: int
    matches: np.ndarray
    tentative: int = 0
    confidence: float = 0.0


def verify(query: LocalFeatures, candidate: LocalFeatures, *, matcher: MatchNetwork | None = None) -> Verified:
    """Return the matches of two photographs that agree with one affine transformation. The result is deterministic.

    MAGSAC++: Barath et al., "MAGSAC++, a fast, reliable and accurate robust estimator", CVPR 2020.

    Args:
        query: Features of one photograph.
        candidate: Features of the other one, of the same kind.
        matcher: Match network that finds the matches; None for the mutually nearest descriptors.
    """
    if matcher is None:
        pairs, confidences = match_descriptors(query.descriptors, candidate.descriptors), np.zeros(0)
    else:
        pairs, confidences = matcher.match(query.points, candidate.points, query.descriptors, candidate.descriptors)
    points = np.stack([query.points[pairs[:, 0]], candidate.points[pairs[:, 1]]], axis=1)
    kept = _agreeing(points) if len(pairs) >= LEAST_MATCHES else np.zeros(len(pairs), dtype=bool)
    return Verified(int(kept.sum()), points[kept], len(pairs), float(confidences.sum()))


def match_descriptors(query: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """Return the matches that are mutually nearest and pass the ratio test, int64, shape (M, 2): query, candidate.

    Args:
        query: Descriptors, uint8, shape (K, D).
        candidate: Descriptors, uint8, shape (L, D).
    """
    if not len(query) or len(candidate) < 2:
        return np.zeros((0, 2), dtype=np.int64)
    first, second = query.astype(np.float32), candidate.astype(np.float32)
    distances = first @ second.T
    distances *= -2.0
    distances += np.einsum("kd,kd->k", first, first)[:, None]
    distances += np.einsum("kd,kd->k", second, second)
    rows = np.arange(len(query))
    nearest = distances.argmin(axis=1)
    best = distances[rows, nearest]
    mutual = distances.argmin(axis=0)[nearest] == rows
    distances[rows, nearest] = np.inf
    kept = mutual & (best < MAX_RATIO**2 * distances.min(axis=1))
    return np.stack([rows[kept], nearest[kept]], axis=1)


def _agreeing(points: np.ndarray) -> np.ndarray:
    """Return which matches (M, 2, 2) are inliers of a plausible transformation, bool, shape (M,)."""
    import cv2

    scaled = points.astype(np.float64) * _SCALE
    options = cv2.UsacParams()
    options.score = cv2.SCORE_METHOD_MAGSAC
    options.threshold = TOLERANCE * _SCALE
    options.maxIterations = _ROUNDS
    options.confidence = _CONFIDENCE
    options.randomGeneratorState = 0
    try:
        found, mask = cv2.estimateAffine2D(scaled[:, 0], scaled[:, 1], params=options)
    except cv2.error:  # all points at one place
        found = mask = None
    if found is None or mask is None or not _is_plausible(found[:, :2]):
        return np.zeros(len(points), dtype=bool)
    return np.asarray(mask).ravel().astype(bool)


def _is_plausible(matrix: np.ndarray) -> bool:
    """Return whether a 2 x 2 matrix neither mirrors nor shrinks, enlarges or stretches a picture too much."""
    large, small = np.linalg.svd(matrix, compute_uv=False)
    limits = max(large, 1 / max(small, 1e-9)) <= MAX_SCALE and large <= MAX_STRETCH * small
    return bool(limits and np.linalg.det(matrix) > 0)
