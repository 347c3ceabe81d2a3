"""Golden images: photographs of a bundle with their expected embeddings, to check the encoder at hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from whale_ray.errors import BundleError
from whale_ray.inference.bundle_contents import BundleContents, golden_tolerance
from whale_ray.inference.keypoints.keypoint_files import check_golden_keypoints

GOLDEN_IMAGES = 6


def check_golden_images(contents: BundleContents, *, runtime: str, difference: Callable[[np.ndarray], float]) -> None:
    """Check that the golden images of a bundle give their embeddings within its tolerance, and their keypoints.

    Args:
        contents: Contents of the bundle.
        runtime: Name of the runtime that embeds.
        difference: Returns the largest cosine distance of the embeddings computed here from the expected ones,
            float32, shape (G, D).

    Raises:
        BundleError: If they differ by more, or if the bundle has no golden images or no sound tolerance.
    """
    manifest, expected = contents.manifest, contents.golden_vectors
    name, tolerance = manifest["id"], golden_tolerance(manifest, runtime)
    if not contents.golden or expected.shape != (len(contents.golden), manifest["embedding_size"]):
        raise BundleError(f"{name} must have golden images, each with its embedding. Make the bundle again")
    most = largest_tolerance(expected)
    if not (isinstance(tolerance, float) and 0 < tolerance <= most):
        raise BundleError(
            f"the tolerance of {name} must be above 0 and at most {most:.2g}, a tenth of the smallest distance "
            f"between its golden images, but is {tolerance}. Make the bundle again"
        )
    found = difference(expected)
    if not found <= tolerance:
        raise BundleError(
            f"the golden images must give their embeddings within {tolerance:.2g} cosine distance, but {name} "
            f"on {runtime} differs by {found:.2g} here. Use the library versions in its bundle.json, or "
            "make it again"
        )
    if contents.keypoints is not None:
        check_golden_keypoints(contents.keypoints, contents.golden, bundle=name)


def far_apart(vectors: np.ndarray, count: int) -> list[int]:
    """Return the rows of up to `count` vectors, each the farthest from those before it (greedy).

    Args:
        vectors: Float32, of length 1, shape (N, D).
        count: Number of rows.
    """
    chosen = [0]
    nearest = vectors @ vectors[0]
    while len(chosen) < min(count, len(vectors)):
        chosen.append(int(np.argmin(nearest)))
        nearest = np.maximum(nearest, vectors @ vectors[chosen[-1]])
    return chosen


def golden_distance(embeddings: np.ndarray) -> float:
    """Return the smallest cosine distance between the embeddings that golden images would have.

    Near 0 if the encoder has collapsed to a few embeddings: it cannot become a bundle.

    Args:
        embeddings: Of the gallery, any floats, shape (N, D).
    """
    vectors = embeddings.astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return 10.0 * largest_tolerance(vectors[far_apart(vectors, GOLDEN_IMAGES)])


def largest_tolerance(golden_vectors: np.ndarray) -> float:
    """Return a tenth of the smallest cosine distance between two golden embeddings; 0 for a collapsed encoder."""
    distances = 1.0 - golden_vectors @ golden_vectors.T
    pairs = distances[~np.eye(len(distances), dtype=bool)]
    return float(pairs.min(initial=1.0)) / 10.0
