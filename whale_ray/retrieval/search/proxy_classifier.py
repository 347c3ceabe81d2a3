"""A classifier beside the neighbours: the logits of a trained loss, as cosines to its proxies, mixed into the scores.

Knows vectors and codes; no loss and no vote.
"""

from __future__ import annotations

import numpy as np

from whale_ray.retrieval.search.gallery_index import GalleryIndex


class Classifier:
    """The proxies of the individuals in a gallery, one or more of each.

    proxies: (P, D), in the same space as the gallery's vectors. labels: P names; those that are not in the gallery
    count for nothing.
    """

    def __init__(self, index: GalleryIndex, proxies: np.ndarray, labels: np.ndarray) -> None:
        self._proxies = GalleryIndex(proxies, labels)
        self._places = self._proxies.codes_of(index.names)
        self._codes = index.codes

    def mix(self, queries: np.ndarray, scores: np.ndarray, weight: float) -> np.ndarray:
        """(1 - weight) score + weight cos, (q, N), of the scores of a gallery's images (q, N), in its order.

        cos is that of the query (q, D) to the nearest proxy of the individual on the image. An individual without a
        proxy, enrolled after training, keeps its scores. So an individual's largest is (1 - weight) times its largest
        score plus weight times its largest logit, without the loss's margin and scale.
        """
        if not len(self._proxies):
            return scores
        cosines = queries @ self._proxies.vectors.astype(np.float64).T
        largest = np.maximum.reduceat(cosines, self._proxies.starts, axis=1)
        said = np.where(self._places >= 0, largest[:, self._places], np.nan)[:, self._codes]
        return np.where(np.isnan(said), scores, (1.0 - weight) * scores + weight * said)
