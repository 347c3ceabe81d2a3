"""Scores of gallery photographs and individuals by their nearest local features (LNBNN).

McCann and Lowe, "Local naive Bayes nearest neighbor for image classification", CVPR 2012, as HotSpotter uses it (Crall
et al., WACV 2013).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from whale_ray.retrieval.local.descriptor_search import EXACT_UP_TO, DescriptorSearch, merge_nearest
from whale_ray.retrieval.local.feature_store import LocalFeatureStore, join_features, join_stores
from whale_ray.retrieval.local.local_features import LocalFeatures, squared_length

NEIGHBORS = 4
"""Gallery descriptors that each query descriptor may vote for."""
_FOUND = 8  # gallery descriptors among which one of another individual is looked for
_CENTER = 0.4  # standard deviation of the weight of a keypoint, as a share of the picture
_FULL = 255  # weight of a keypoint at the center
_STEPS = 1024  # distances are whole numbers of steps, so that their sums do not depend on an order


class LocalIndex:
    """Local features of a gallery, prepared for many queries.

    Each query descriptor adds d_norm - d to the photographs of its nearest gallery descriptors: d is the distance,
    d_norm that to the nearest descriptor of another individual, as in HotSpotter. What many individuals show, such as
    waves, adds little. Keypoints count less the farther they are from the center of the picture, for there is the
    background: a gain is multiplied by exp(-r^2 / (2 * 0.4^2)) of both keypoints. A query descriptor counts once per
    photograph (once per individual) by its best match, so that copies of a photograph add nothing.

    Args:
        gallery: Features of the gallery photographs.
        individuals: Individual of each photograph, N names.
        exact: Search all descriptors; None decides by their number.
    """

    def __init__(
        self,
        gallery: LocalFeatureStore,
        individuals: np.ndarray | Sequence[str],
        *,
        exact: bool | None = None,
    ) -> None:
        self.kind = gallery.kind
        self.names, self._codes = np.unique(np.asarray(individuals, dtype=str), return_inverse=True)
        self._parts = [gallery]
        self._searches = [DescriptorSearch(gallery.descriptors, exact=exact)]
        self._owners = gallery.owners.astype(np.int32)
        self._weights = center_weights(gallery.points).astype(np.uint8)
        self._rows = np.arange(len(gallery))  # of the parts, one behind another
        self._kept = np.ones(len(gallery), dtype=bool)

    def __len__(self) -> int:
        return len(self._codes)

    @property
    def codes(self) -> np.ndarray:
        """Individual of each photograph, its position in `names`, shape (N,)."""
        return self._codes

    @property
    def kept(self) -> np.ndarray:
        """False for photographs that `without` has left out, bool, shape (N,)."""
        return self._kept

    def prepare(self) -> None:
        """Do now what the first search of the whole gallery would have to do once."""
        for search in self._searches:
            search.prepare()

    def features(self, row: int) -> LocalFeatures:
        """Return the features of one gallery photograph."""
        place = int(self._rows[row])
        for part in self._parts:
            if place < len(part):
                return part.of(place)
            place -= len(part)
        raise IndexError(row)

    def subset(self, rows: np.ndarray | Sequence[int]) -> LocalIndex:
        """Return an exact index of these photographs alone, in this order."""
        rows = np.asarray(rows, dtype=np.int64)
        rows = rows[self._kept[rows]]
        store = join_features([self.features(int(row)) for row in rows], self.kind)
        return LocalIndex(store, self.names[self._codes[rows]], exact=True)

    def image_scores(self, query: LocalFeatures, allowed: np.ndarray | None = None) -> np.ndarray:
        """Return the score of each gallery photograph, float32, shape (N,), 0 or more.

        Args:
            query: Features of the query photograph.
            allowed: Photographs that are compared, bool, shape (N,); None for all.
        """
        return np.asarray(self.scores([query], allowed)[0][0])

    def individual_scores(self, query: LocalFeatures, allowed: np.ndarray | None = None) -> np.ndarray:
        """Return the score of each individual, float32, shape (C,), in the order of `names`.

        Args:
            query: Features of the query photograph.
            allowed: Photographs that are compared, bool, shape (N,); None for all.
        """
        return np.asarray(self.scores([query], allowed)[1][0])

    def scores(
        self, queries: Sequence[LocalFeatures], allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the scores of photographs (Q, N) and of individuals (Q, C) for several queries, float32.

        Args:
            queries: Features of the query photographs.
            allowed: Photographs that are compared with all of these queries, bool, shape (N,); None for all.
        """
        shape = (len(queries), len(self)), (len(queries), len(self.names))
        allowed = self._kept if allowed is None else self._kept & allowed
        asked = np.repeat(np.arange(len(queries)), [len(query) for query in queries])
        if not len(asked) or not len(self._owners):
            return np.zeros(shape[0], np.float32), np.zeros(shape[1], np.float32)
        descriptors = np.concatenate([query.descriptors for query in queries])
        permitted = np.append(allowed, False)[self._owners]
        distances, places = self._nearest(descriptors, _FOUND, None if permitted.all() else permitted)
        images = np.append(self._owners, -1)[places]
        codes = np.append(self._codes, -1)[images]
        gains = _gains(distances, codes, self.kind)
        gains *= np.append(self._weights, 0)[places[:, :NEIGHBORS]]
        gains *= center_weights(np.concatenate([query.points for query in queries]))[:, None]
        images, codes = images[:, :NEIGHBORS], codes[:, :NEIGHBORS]
        return _add_up(asked, images, gains, shape[0]), _add_up(asked, codes, gains, shape[1])

    def _nearest(
        self, descriptors: np.ndarray, count: int, permitted: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        ends = np.cumsum([len(search) for search in self._searches])
        masks = None if permitted is None else np.split(permitted, ends[:-1])
        parts = [
            search.nearest(descriptors, count, allowed=None if masks is None else masks[place])
            for place, search in enumerate(self._searches)
        ]
        return merge_nearest(parts, [len(search) for search in self._searches], count)

    def add(self, features: LocalFeatureStore, individuals: np.ndarray | Sequence[str]) -> LocalIndex:
        """Return an index with further photographs behind the present ones; this index stays as it is.

        Large galleries are not indexed again: the new photographs are searched beside them.

        Args:
            features: Features of the new photographs.
            individuals: Individual of each new photograph.
        """
        grown = self._copy()
        labels = np.concatenate([self.names[self._codes], np.asarray(individuals, dtype=str)])
        grown.names, grown._codes = np.unique(labels, return_inverse=True)
        grown._owners = np.concatenate([self._owners, features.owners.astype(np.int32) + len(self)])
        grown._weights = np.concatenate([self._weights, center_weights(features.points).astype(np.uint8)])
        end = sum(len(part) for part in self._parts)
        grown._rows = np.concatenate([self._rows, np.arange(end, end + len(features))])
        grown._kept = np.concatenate([self._kept, np.ones(len(features), dtype=bool)])
        if len(self._searches[-1]) <= EXACT_UP_TO:
            features = join_stores(self._parts[-1], features)
            grown._parts, grown._searches = self._parts[:-1], self._searches[:-1]
        grown._parts = [*grown._parts, features]
        grown._searches = [*grown._searches, DescriptorSearch(features.descriptors)]
        return grown

    def without(self, rows: np.ndarray | Sequence[int]) -> LocalIndex:
        """Return an index that gives these photographs no score; their positions stay. This index stays as it is."""
        smaller = self._copy()
        smaller._kept = self._kept.copy()
        smaller._kept[np.asarray(rows, dtype=np.int64)] = False
        return smaller

    def select(self, rows: np.ndarray | Sequence[int], individuals: np.ndarray | Sequence[str]) -> LocalIndex:
        """Return an index of these photographs alone, in this order, that shares the search of this index.

        Args:
            rows: Positions of the photographs, each at most once.
            individuals: Individual of each of them.
        """
        rows = np.asarray(rows, dtype=np.int64)
        chosen = self._copy()
        chosen.names, chosen._codes = np.unique(np.asarray(individuals, dtype=str), return_inverse=True)
        places = np.full(len(self) + 1, -1, dtype=np.int32)  # the last one: of photographs that this index lacks too
        places[rows] = np.arange(len(rows))
        chosen._owners, chosen._kept, chosen._rows = places[self._owners], self._kept[rows], self._rows[rows]
        return chosen

    def _copy(self) -> LocalIndex:
        copied = LocalIndex.__new__(LocalIndex)
        copied.__dict__.update(self.__dict__)
        return copied


def center_weights(points: np.ndarray) -> np.ndarray:
    """Return the weight of keypoints by their distance from the center of the picture, int64, shape (K,), 0 to 255.

    Args:
        points: As in `LocalFeatures`, shape (K, 2).
    """
    offsets = points.astype(np.float64) - 0.5
    squares = np.einsum("kd,kd->k", offsets, offsets)
    weights: np.ndarray = np.rint(_FULL * np.exp(-squares / (2 * _CENTER**2))).astype(np.int64)
    return weights


def _gains(distances: np.ndarray, codes: np.ndarray, kind: str) -> np.ndarray:
    """Return what each match adds, in steps, int64, shape (n, NEIGHBORS); 0 without a descriptor to compare with.

    Args:
        distances: Squared distances in ascending order, int64, shape (n, _FOUND).
        codes: Individual of each neighbor; -1 for no neighbor.
        kind: `sift` or `orb`.
    """
    found = codes >= 0
    length = np.sqrt(np.where(found, distances, 0) / squared_length(kind))
    steps = np.rint(length * _STEPS).astype(np.int64)
    rows = np.arange(len(codes))
    farthest = np.maximum(found.sum(axis=1) - 1, 0)  # if all are of one individual
    gains = np.zeros((len(codes), NEIGHBORS), dtype=np.int64)
    for column in range(NEIGHBORS):
        others = found & (codes != codes[:, column, None])
        norm = np.where(others.any(axis=1), others.argmax(axis=1), farthest)
        gains[:, column] = np.where(found[:, column], steps[rows, norm] - steps[:, column], 0)
    return np.maximum(gains, 0)


def _add_up(asked: np.ndarray, targets: np.ndarray, gains: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the sums of gains by query and target (Q, M); a query descriptor counts once per target."""
    counted = gains > 0
    for column in range(1, targets.shape[1]):  # neighbors are sorted: the first of a target is its best
        counted[:, column] &= (targets[:, :column] != targets[:, column, None]).all(axis=1)
    cells = (asked[:, None] * shape[1] + targets)[counted]
    sums = np.bincount(cells, weights=gains[counted].astype(np.float64), minlength=shape[0] * shape[1])
    return (sums / (_STEPS * _FULL**2)).astype(np.float32).reshape(shape)
