"""Class proxies of a trained loss, and the classifier that mixes cosines to them into the retrieval scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from whale_ray.errors import InputError
from whale_ray.retrieval.search.gallery_index import GalleryIndex


@dataclass(frozen=True)
class ClassProxies:
    """Class proxies that a loss has learned.

    Attributes:
        vectors: Unit vectors in the space of the embeddings, float16, shape (P, D).
        individuals: Individual of each proxy, shape (P,); an individual may have several.

    Raises:
        InputError: If the numbers of vectors and individuals differ.
    """

    vectors: np.ndarray
    individuals: np.ndarray

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or self.individuals.shape != self.vectors.shape[:1]:
            raise InputError(
                "class proxies must have shape (P, D) and P individuals, but got vectors of shape "
                f"{self.vectors.shape} and individuals of shape {self.individuals.shape}. Train again"
            )

    def __len__(self) -> int:
        return len(self.vectors)


class ProxyClassifier:
    """Classifier by the cosine to the nearest class proxy of each individual in a gallery.

    Args:
        index: The gallery.
        proxies: Class proxies in the space of the gallery vectors; those of other individuals are ignored.
    """

    def __init__(self, index: GalleryIndex, proxies: ClassProxies) -> None:
        self._proxies = GalleryIndex(proxies.vectors, proxies.individuals)
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
        proxy_scores = np.where(self._places >= 0, largest[:, self._places], np.nan)[:, self._codes]
        return np.where(np.isnan(proxy_scores), scores, (1.0 - weight) * scores + weight * proxy_scores)
