"""Backlog of a review queue: images whose last search is of another bundle or another version of the gallery."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import sqlalchemy as sql
from sqlalchemy.exc import IntegrityError

from whale_ray.data.image_io import Box
from whale_ray.inference.predictions import AnimalTraits
from whale_ray.serving.gallery.database import translated_errors
from whale_ray.serving.gallery.enrolment_store import EnrolmentStore
from whale_ray.serving.gallery.review.review_queue import LatestAnswer
from whale_ray.serving.gallery.tables import QUERIES, QUERY_VECTORS
from whale_ray.serving.gallery.transactions import chunk_names, vector_bytes


@dataclass(frozen=True)
class PendingSearch:
    """A waiting image that is to be searched again."""

    digest: str
    box: Box | None
    traits: AnimalTraits


class ReviewBacklog:
    """Searches that the waiting images of a queue still need.

    Args:
        store: The enrolment database.
    """

    def __init__(self, store: EnrolmentStore) -> None:
        self._engine = store.engine

    def pending(self, bundle: str, version: int, *, most: int, start: str = "") -> list[PendingSearch]:
        """Return images that were not searched with this bundle in this version of the gallery.

        Args:
            bundle: Id of the bundle.
            version: Version of the gallery.
            most: Number of images.
            start: Digests from this one on come first, so that several replicas begin at different images.
        """
        columns = (QUERIES.c.digest, QUERIES.c.box, QUERIES.c.viewpoint, QUERIES.c.species)
        order = (QUERIES.c.digest < start, QUERIES.c.digest)
        query = sql.select(*columns).where(_is_pending(bundle, version)).order_by(*order).limit(most)
        with translated_errors(), self._engine.connect() as connection:
            rows = connection.execute(query).all()
        return [
            PendingSearch(digest, box, AnimalTraits(viewpoint or "", species or ""))
            for digest, box, viewpoint, species in rows
        ]

    def count(self, bundle: str, version: int) -> int:
        """Return the number of images that are pending.

        Args:
            bundle: Id of the bundle.
            version: Version of the gallery.
        """
        query = sql.select(sql.func.count()).select_from(QUERIES).where(_is_pending(bundle, version))
        with translated_errors(), self._engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def vectors(self, bundle: str, digests: Iterable[str]) -> dict[str, np.ndarray]:
        """Return the stored embeddings (float16) of waiting images by this bundle.

        Args:
            bundle: Id of the bundle.
            digests: `picture_digest` of the images.
        """
        found: dict[str, np.ndarray] = {}
        with translated_errors(), self._engine.connect() as connection:
            for part in chunk_names(digests):
                which = (QUERY_VECTORS.c.bundle == bundle) & QUERY_VECTORS.c.digest.in_(part)
                rows = connection.execute(sql.select(QUERY_VECTORS.c.digest, QUERY_VECTORS.c.vector).where(which))
                found |= {digest: np.frombuffer(vector, "<f2") for digest, vector in rows}
        return found

    def add_vectors(self, bundle: str, vectors: Mapping[str, np.ndarray]) -> None:
        """Store embeddings of waiting images; those that were dropped meanwhile or are stored already are skipped.

        Embeddings of other bundles are erased: a queue is searched by one bundle at a time.

        Args:
            bundle: Id of the bundle.
            vectors: Embedding by digest.
        """
        for digest, vector in vectors.items():
            row = {"digest": digest, "bundle": bundle, "vector": vector_bytes(vector)}
            others = (QUERY_VECTORS.c.digest == digest) & (QUERY_VECTORS.c.bundle != bundle)
            with translated_errors(), suppress(IntegrityError), self._engine.begin() as connection:
                connection.execute(QUERY_VECTORS.delete().where(others))
                connection.execute(QUERY_VECTORS.insert().values(row))

    def record(self, bundle: str, version: int, answers: Mapping[str, LatestAnswer | None]) -> None:
        """Write the answers of a search in one transaction.

        Args:
            bundle: Id of the bundle.
            version: Version of the gallery that was searched.
            answers: Answer by digest; None if the image cannot be searched.
        """
        if not answers:
            return
        nearest, decision = sql.bindparam("nearest_now", type_=sql.Text), sql.bindparam("decision_now", type_=sql.Text)
        is_same = (QUERIES.c.latest_nearest == nearest) & (QUERIES.c.latest_decision == decision)
        now = sql.literal(datetime.now(UTC), QUERIES.c.latest_since.type)
        update = (
            QUERIES.update()
            .where(QUERIES.c.digest == sql.bindparam("which"))
            .values(
                latest_bundle=bundle,
                latest_version=version,
                latest_nearest=nearest,
                latest_distance=sql.bindparam("distance_now"),
                latest_decision=decision,
                latest_since=sql.case((is_same, QUERIES.c.latest_since), else_=now),
            )
        )
        rows = [
            {
                "which": digest,
                "nearest_now": answer and answer.nearest,
                "distance_now": answer and answer.distance,
                "decision_now": answer and answer.decision,
            }
            for digest, answer in sorted(answers.items())
        ]
        with translated_errors(), self._engine.begin() as connection:
            connection.execute(update, rows)


def _is_pending(bundle: str, version: int) -> sql.ColumnElement[bool]:
    latest = QUERIES.c.latest_bundle, QUERIES.c.latest_version
    return latest[0].is_(None) | (latest[0] != bundle) | (latest[1] != version)
