"""Local features of enrolled pictures in the enrolment store; they are erased with their pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress

import sqlalchemy as sql
from sqlalchemy.exc import IntegrityError

from whale_ray.errors import DataError
from whale_ray.retrieval.local.feature_bytes import unpack_features
from whale_ray.retrieval.local.local_features import VERSION, LocalFeatures
from whale_ray.serving.gallery.database import translated_errors
from whale_ray.serving.gallery.enrolled_pictures import pack_keypoints
from whale_ray.serving.gallery.tables import KEYPOINTS
from whale_ray.serving.gallery.transactions import chunk_names


class StoredKeypoints:
    """Local features of one kind in a store. They depend on no encoder: bundles of one kind share them.

    Args:
        engine: Engine of the store.
        kind: `sift` or `orb`.
    """

    def __init__(self, engine: sql.Engine, kind: str) -> None:
        self._engine, self._kind = engine, kind

    def read(self, digests: Iterable[str]) -> dict[str, LocalFeatures]:
        """Return the features of pictures by digest; those of another version, or damaged, are left out.

        Raises:
            StoreError: If the database does not answer.
        """
        found: dict[str, LocalFeatures] = {}
        is_current = (KEYPOINTS.c.kind == self._kind) & (KEYPOINTS.c.version == VERSION)
        with translated_errors(), self._engine.connect() as connection:
            for part in chunk_names(digests):
                query = sql.select(KEYPOINTS.c.digest, KEYPOINTS.c.features).where(
                    is_current & KEYPOINTS.c.digest.in_(part)
                )
                for digest, features in connection.execute(query):
                    with suppress(DataError):  # they are searched again
                        found[digest] = unpack_features(bytes(features), self._kind)
        return found

    def add(self, features: Mapping[str, LocalFeatures]) -> None:
        """Store features by digest, in place of stored ones; forgotten pictures are skipped.

        Raises:
            StoreError: If the database does not answer.
        """
        for digest, one in features.items():
            with translated_errors(), suppress(IntegrityError), self._engine.begin() as connection:
                same = (KEYPOINTS.c.digest == digest) & (KEYPOINTS.c.kind == self._kind)
                connection.execute(KEYPOINTS.delete().where(same))
                connection.execute(
                    KEYPOINTS.insert().values(digest=digest, **pack_keypoints(one, self._kind)._asdict())
                )
