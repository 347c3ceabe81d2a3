"""Live gallery: the images of the bundle plus enrolled images, minus forgotten ones.

Enrolled images are ranked exactly as the bundle's own.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from whale_ray.data.formats.animal_rows import BOX, animal_name
from whale_ray.inference.predictions import Gallery
from whale_ray.inference.predictor import Bundle
from whale_ray.retrieval.local.local_features import LocalFeatures
from whale_ray.retrieval.search.gallery_index import normalize_rows
from whale_ray.serving.gallery.enrolled_pictures import Entry, StoreState
from whale_ray.serving.gallery.enrolment_store import EnrolmentStore
from whale_ray.serving.gallery.live_keypoints import LiveKeypoints
from whale_ray.serving.gallery.stored_keypoints import StoredKeypoints


@dataclass(frozen=True)
class GallerySnapshot:
    """The gallery at one version.

    Attributes:
        version: Version of the store.
        gallery: Images, individuals and search index.
        enrolled: Image names that are not the bundle's.
        missing: Enrolled images without an embedding of this bundle, or without the local features that its setting
            needs, as after a rollout.
    """

    version: int
    gallery: Gallery
    enrolled: frozenset[str]
    missing: tuple[Entry, ...]

    @cached_property
    def individuals(self) -> dict[str, list[str]]:
        """Individual → image names, both sorted."""
        found: dict[str, list[str]] = {}
        for individual, image in sorted(zip(self.gallery.individuals, self.gallery.images, strict=True)):
            found.setdefault(individual, []).append(image)
        return found

    @cached_property
    def images(self) -> frozenset[str]:
        """All image names."""
        return frozenset(self.gallery.images)


class LiveGallery:
    """The gallery of a bundle, updated from the store on each call. Thread-safe."""

    def __init__(self, bundle: Bundle, store: EnrolmentStore | None) -> None:
        self.bundle, self.store = bundle, store
        self.rows = {image: row for row, image in enumerate(bundle.images)}
        self._pictures = _picture_names(bundle)
        self.names = frozenset(bundle.individuals)
        self._bundle_vectors = normalize_rows(bundle.contents.gallery)
        bundle.gallery.searcher.use_lists(bundle.setting.search_mode)
        self._vectors: dict[str, np.ndarray] = {}
        index = bundle.gallery.keypoints
        searches_all = bundle.keypoints is None or not bundle.keypoints.shortlist
        self._keypoints = None if index is None else LiveKeypoints(index, searches_all)
        self._stored_keypoints = StoredKeypoints(store.engine, index.kind) if store and index is not None else None
        self._excluded: set[str] = set()
        self._lock = threading.Lock()
        self._snapshot = GallerySnapshot(0, bundle.gallery, frozenset(), ())

    def snapshot(self) -> GallerySnapshot:
        """Return the current gallery; raise StoreError if the store does not answer."""
        if self.store is None:
            return self._snapshot
        with self._lock:
            if self.store.version() != self._snapshot.version:
                self._snapshot = self._build_snapshot(self.store, self.store.state())
            return self._snapshot

    def is_bundle_image(self, image: str, individual: str) -> bool:
        """Return whether the bundle's own gallery has this image of this individual, hidden or not.

        Args:
            image: Image name.
            individual: Individual ID.
        """
        row = self.rows.get(image)
        return row is not None and self.bundle.individuals[row] == individual

    def picture_name(self, image: str) -> str:
        """Return the name that an image of the bundle has as an enrolled picture; the name itself for other images."""
        row = self.rows.get(image)
        return image if row is None else self._pictures[row]

    def exclude(self, entry: Entry) -> None:
        """Leave out an enrolled image that this bundle cannot embed."""
        with self._lock:
            self._excluded.add(entry.digest)
            missing = tuple(one for one in self._snapshot.missing if one.digest != entry.digest)
            self._snapshot = replace(self._snapshot, missing=missing)

    def add_features(self, vectors: Mapping[str, np.ndarray], keypoints: Mapping[str, LocalFeatures]) -> None:
        """Store this bundle's features of enrolled images.

        Args:
            vectors: Embedding by digest.
            keypoints: Local features by digest; empty for a bundle without.

        Raises:
            StoreError: If the store does not answer.
        """
        assert self.store is not None
        self.store.add_vectors(self.bundle.id, vectors)
        if self._stored_keypoints:
            self._stored_keypoints.add(keypoints)
        with self._lock:
            if self._keypoints:
                self._keypoints.add(keypoints)
            self._vectors |= {digest: vector.astype(np.float16) for digest, vector in vectors.items()}
            self._snapshot = self._build_snapshot(self.store, self.store.state())

    def _build_snapshot(self, store: EnrolmentStore, state: StoreState) -> GallerySnapshot:
        bundle = list(zip(self.bundle.images, self.bundle.individuals, self._pictures, strict=True))
        rows = [row for row, names in enumerate(bundle) if not state.is_hidden(*names)]
        # An image that has since reached the training of this bundle is in its own gallery.
        shown = {name for row in rows for name in (bundle[row][0], bundle[row][2])}
        entries = [entry for entry in state.entries if entry.image not in shown]
        self._fetch_features(store, entries)
        known = self._vectors.keys() if self._keypoints is None else self._vectors.keys() & self._keypoints.digests
        there = [entry for entry in entries if entry.digest in known]
        gallery = [*(bundle[row][:2] for row in rows), *((entry.image, entry.individual) for entry in there)]
        images, individuals = [image for image, _ in gallery], [individual for _, individual in gallery]
        added = np.reshape(
            [self._vectors[entry.digest] for entry in there], (len(there), self._bundle_vectors.shape[1])
        )
        vectors = np.concatenate([self._bundle_vectors[rows], normalize_rows(added)])
        traits = [*(self.bundle.traits[row] for row in rows), *(entry.traits for entry in there)]
        searcher = self.bundle.build_searcher(vectors, individuals, traits=traits, ready=True)
        searcher.index.move_lists(self.bundle.gallery.searcher.index, np.array(rows, dtype=np.int64))
        index = None
        if self._keypoints:
            index = self._keypoints.select(rows, [entry.digest for entry in there], individuals)
        missing = tuple(entry for entry in entries if entry.digest not in known | self._excluded)
        enrolled = frozenset(entry.image for entry in there)
        return GallerySnapshot(state.version, Gallery(images, individuals, searcher, index), enrolled, missing)

    def _fetch_features(self, store: EnrolmentStore, entries: list[Entry]) -> None:
        digests = {entry.digest for entry in entries}
        self._vectors = {digest: vector for digest, vector in self._vectors.items() if digest in digests}
        self._vectors |= store.vectors(self.bundle.id, digests - self._vectors.keys())
        if self._keypoints and self._stored_keypoints:
            self._keypoints.keep_only(digests)
            self._keypoints.add(self._stored_keypoints.read(digests - self._keypoints.digests))


def _picture_names(bundle: Bundle) -> list[str]:
    """Return the name of each image with its box; a data set leaves the box out if the photograph has one row."""
    table = bundle.contents.table
    if BOX[0] not in table:
        return list(bundle.images)
    columns = zip(
        bundle.images, table["file"], *(pd.to_numeric(table[side], errors="coerce") for side in BOX), strict=True
    )
    return [image if pd.isna(x0) else animal_name(file, (x0, y0, x1, y1)) for image, file, x0, y0, x1, y1 in columns]
