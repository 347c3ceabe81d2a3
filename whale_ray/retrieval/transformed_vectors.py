"""Vectors of photographs after the transforms of retrieval settings: flip and whitening."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from whale_ray.retrieval.fusion.stranger_cohort import Cohort, cohort_rows
from whale_ray.retrieval.recent_whitenings import RECENT_WHITENINGS
from whale_ray.retrieval.search.gallery_index import combine_views, required_views
from whale_ray.retrieval.search.proxy_classifier import ClassProxies
from whale_ray.retrieval.search.retrieval_settings import VectorTransform
from whale_ray.retrieval.search.whitening import Whitening, fit_whitening


class TransformedVectors:
    """Vectors of N photographs after each transform; a whitening is fitted once, on the rows of `train`.

    Args:
        views: `plain` and, if a setting needs it, `flip`: float16, shape (N, D).
        individuals: Shape (N,).
        parts: Shape (N,).
        unknown_label: Label of unknown individuals.
        proxies: Class proxies, transformed like the photographs.

    Attributes:
        has_cohort: The rows of `train` have enough unknown animals for a cohort.
    """

    def __init__(
        self,
        views: Mapping[str, np.ndarray],
        *,
        individuals: np.ndarray,
        parts: np.ndarray,
        unknown_label: str,
        proxies: ClassProxies | None = None,
    ) -> None:
        self.views = views
        self.individuals = np.asarray(individuals, dtype=str)
        self.training, self.asking = (np.asarray(parts) == part for part in ("train", "val"))
        self.proxies = proxies
        self.unknown_label = unknown_label
        self._fitted: dict[str, Whitening] = {}
        self._whitenings: dict[VectorTransform, Whitening] = {}
        self._cohorts: dict[VectorTransform, Cohort] = {}
        self._last_seen: tuple[VectorTransform, np.ndarray] | None = None
        self._cohort_rows = cohort_rows(np.flatnonzero(self.training & (self.individuals == unknown_label)))
        self.has_cohort = len(self._cohort_rows) > 0

    def whitening(self, view: VectorTransform) -> Whitening | None:
        """Return the whitening of a transform; None if it has none.

        Raises:
            InputError: If it cannot be fitted.
        """
        if view.whiten == "none":
            return None
        if view not in self._whitenings:
            vectors, individuals = self.views["plain"][self.training], self.individuals[self.training]
            self._whitenings[view] = RECENT_WHITENINGS.get_or_fit(
                lambda: self._fit(view, vectors, individuals),
                vectors,
                individuals,
                kind=view.whiten,
                size=view.whitened_size,
                unknown_label=self.unknown_label,
            )
        return self._whitenings[view]

    def _fit(self, view: VectorTransform, vectors: np.ndarray, individuals: np.ndarray) -> Whitening:
        """Return the whitening of a transform, shortened from one that is fitted once for all sizes."""
        if view.whiten not in self._fitted:
            self._fitted[view.whiten] = fit_whitening(
                vectors, individuals, kind=view.whiten, unknown_label=self.unknown_label
            )
        fitted = self._fitted[view.whiten]
        return fitted if view.whitened_size is None else fitted.shortened(view.whitened_size)

    def seen(self, view: VectorTransform) -> np.ndarray:
        """Unit vectors, float16 (N, d): each view whitened, then combined."""
        if self._last_seen is not None and self._last_seen[0] == view:
            return self._last_seen[1]
        seen = self._transform(self.views, view)
        if self.has_cohort:  # which is taken from the same vectors
            self._last_seen = view, seen
        return seen

    def cohort(self, view: VectorTransform) -> Cohort | None:
        """Return the cohort of the unknown animals among the rows of `train`, after a transform; None without one."""
        if not self.has_cohort:
            return None
        if view not in self._cohorts:
            self._cohorts[view] = Cohort(self.seen(view)[self._cohort_rows])
        return self._cohorts[view]

    def transform_proxies(self, transform: VectorTransform) -> ClassProxies | None:
        """Return the class proxies, float16 (P, d), in the space of `seen`; None if there are none."""
        if self.proxies is None:
            return None
        same_in_each_view = dict.fromkeys(self.views, self.proxies.vectors)
        return replace(self.proxies, vectors=self._transform(same_in_each_view, transform))

    def _transform(self, views: Mapping[str, np.ndarray], transform: VectorTransform) -> np.ndarray:
        whitening = self.whitening(transform)
        if whitening is None:
            return combine_views(views, transform.flip)
        white = {name: whitening.apply(views[name]) for name in required_views(transform.flip) if name in views}
        return combine_views(white, transform.flip)
