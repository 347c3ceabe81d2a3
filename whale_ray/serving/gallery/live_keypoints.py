"""Local features of a changing gallery: those of the bundle's photographs and of enrolled pictures."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from whale_ray.retrieval.local.feature_store import join_features
from whale_ray.retrieval.local.local_features import LocalFeatures
from whale_ray.retrieval.local.local_index import LocalIndex


@dataclass
class LiveKeypoints:
    """Local features of the bundle's photographs and of enrolled pictures, searchable without indexing all anew.

    Attributes:
        bundle: Index of the bundle's photographs.
        searches_all: Queries are compared with the whole gallery, not with a shortlist.
    """

    bundle: LocalIndex
    searches_all: bool = True
    _index: LocalIndex = field(init=False)
    _rows: dict[str, int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.searches_all:
            self.bundle.prepare()  # before the first call, which would wait for it
        self._index = self.bundle

    @property
    def kind(self) -> str:
        """Kind of the features."""
        return self.bundle.kind

    @property
    def digests(self) -> frozenset[str]:
        """Digests of the enrolled pictures whose features are here."""
        return frozenset(self._rows)

    def add(self, features: Mapping[str, LocalFeatures]) -> None:
        """Add features of enrolled pictures by digest; those that are here already are skipped."""
        new = {digest: one for digest, one in features.items() if digest not in self._rows}
        if not new:
            return
        start = len(self._index)
        self._rows |= {digest: start + place for place, digest in enumerate(new)}
        self._index = self._index.add(join_features(new.values(), self.kind), [""] * len(new))

    def keep_only(self, digests: Collection[str]) -> None:
        """Drop the features of all other enrolled pictures."""
        kept = {digest: row for digest, row in self._rows.items() if digest in digests}
        if len(kept) < len(self._rows):
            features = {digest: self._index.features(row) for digest, row in kept.items()}
            self._index, self._rows = self.bundle, {}
            self.add(features)

    def select(self, rows: Sequence[int], digests: Sequence[str], individuals: Sequence[str]) -> LocalIndex:
        """Return the index of a gallery: photographs of the bundle, then enrolled pictures.

        Args:
            rows: Rows of the bundle's photographs.
            digests: Digests of the enrolled pictures.
            individuals: Individual of each photograph of the gallery.
        """
        places = [*rows, *(self._rows[digest] for digest in digests)]
        return self._index.select(np.array(places, dtype=np.int64), individuals)
