"""Proxy classifier: cosines to the class proxies of a trained loss, mixed into the retrieval scores."""

from __future__ import annotations

import numpy as np

from whale_ray.retrieval.search.gallery_index import GalleryIndex


class ProxyClassifier:
    """Class proxies of the individuals in a gallery, one or more each.

    Args:
        index: The gallery.
        proxies: Shape (P, D), in the space of the gallery vectors.
        labels: P names; proxies of individuals outside the gallery are ignored.
    """

    def __init__(self, index: GalleryIndex, proxies: np.ndarray, labels: np.ndarray) -> None:
        self._proxies = GalleryIndex(proxies, labels)
        self._places = self._proxies.codes_of(index.names)
        self._codes = index.codes

    def mix(self, queries: np.ndarray, scores: np.ndarray, weight: float) -> np.ndarray:
        """Return (1 - weight) * score + weight * cosine to the nearest proxy of the image's individual, shape (q, N).

        An individual without a proxy (enrolled after training) keeps its scores.

        Args:
            queries: Unit vectors, shape (q, D).
            scores: Scores of the gallery images, shape (q, N).
            weight: 0 to 1.
        """
        if not len(self._proxies):
            return scores
        cosines = queries @ self._proxies.vectors.astype(np.float64).T
        largest = np.maximum.reduceat(cosines, self._proxies.starts, axis=1)
        said = np.where(self._places >= 0, largest[:, self._places], np.nan)[:, self._codes]
        return np.where(np.isnan(said), scores, (1.0 - weight) * scores + weight * said)
