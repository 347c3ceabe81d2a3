"""Review queue: images of individuals that seem new, kept until a person names or rejects them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sql
from sqlalchemy.exc import IntegrityError

from whale_ray.data.image_io import Box
from whale_ray.inference.predictions import UNKNOWN_TRAITS, AnimalTraits
from whale_ray.serving.gallery.database import erase_leftovers, translated_errors
from whale_ray.serving.gallery.enrolment_store import EnrolmentStore
from whale_ray.serving.gallery.tables import QUERIES
from whale_ray.serving.gallery.transactions import Claim

REVIEW_FRACTION = 0.75  # of the distance from which on an animal is taken for a new one
MAX_ITEMS = 10_000


@dataclass(frozen=True)
class LatestAnswer:
    """Answer of the last search for a waiting image.

    Attributes:
        bundle: Id of the bundle that searched.
        nearest: Nearest individual, or empty.
        distance: Cosine distance to it.
        decision: `new` or `known`.
        since: Time of the first search with this nearest individual and decision; None before it is recorded, and for
            answers that an earlier version recorded.
    """

    bundle: str
    nearest: str
    distance: float
    decision: str
    since: datetime | None = None


@dataclass(frozen=True)
class ReviewItem:
    """A queried image, or the box of an animal in it.

    Attributes:
        digest: `picture_digest` of the image and the box.
        at: When it was asked for.
        bundle: Id of the bundle that answered.
        nearest: Nearest individual, or empty.
        distance: Cosine distance to it.
        decision: `new` or `known`.
        box: Box of the animal; None for the whole image.
        traits: Viewpoint and species of the animal.
        latest: Answer of the last search in the background; None before it.
    """

    digest: str
    at: datetime
    bundle: str
    nearest: str
    distance: float
    decision: str
    box: Box | None = None
    traits: AnimalTraits = UNKNOWN_TRAITS
    latest: LatestAnswer | None = None

    @property
    def is_changed(self) -> bool:
        """True if the last search decides otherwise or finds another nearest individual than the first one."""
        latest = self.latest
        return latest is not None and (latest.nearest, latest.decision) != (self.nearest, self.decision)


def needs_review(distance: float, new_distance: float | None) -> bool:
    """Return whether the nearest individual is far enough for a review.

    Args:
        distance: Cosine distance to the nearest individual.
        new_distance: Distance above which an individual counts as new; None if cosines do not rank.

    >>> needs_review(0.31, 0.4), needs_review(0.29, 0.4), needs_review(2.0, None)
    (True, False, False)
    """
    return new_distance is not None and distance > REVIEW_FRACTION * new_distance


class ReviewQueue:
    """The images that wait for review, at most the latest `most`."""

    def __init__(self, store: EnrolmentStore, *, most: int = MAX_ITEMS) -> None:
        self._engine, self._most = store.engine, most

    def keep(self, query: ReviewItem, *, data: bytes, thumbnail: bytes) -> None:
        """Add an image; one that is queued already is left unchanged, and the oldest beyond the limit are erased.

        Args:
            query: Entry of the queue.
            data: The image file.
            thumbnail: A small JPEG.
        """
        names = ("digest", "at", "bundle", "nearest", "distance", "decision", "box")
        row = {name: getattr(query, name) for name in names} | {"data": data, "thumbnail": thumbnail}
        row |= {"viewpoint": query.traits.viewpoint, "species": query.traits.species}
        count = sql.select(sql.func.count()).select_from(QUERIES)
        newest = sql.select(QUERIES.c.digest).order_by(QUERIES.c.at.desc()).limit(self._most)
        with translated_errors(), suppress(IntegrityError), self._engine.begin() as connection:
            connection.execute(QUERIES.insert().values(row))
            if connection.execute(count).scalar_one() > self._most:
                connection.execute(QUERIES.delete().where(QUERIES.c.digest.not_in(newest)))

    def waiting(self, *, changed: bool = False) -> list[ReviewItem]:
        """Return all entries, the latest first.

        Args:
            changed: Leave out those whose answer is still the first one.
        """
        columns = [column for column in QUERIES.c if column.name not in ("data", "thumbnail")]
        with translated_errors(), self._engine.connect() as connection:
            items = [_read_item(row) for row in connection.execute(sql.select(*columns).order_by(QUERIES.c.at.desc()))]
        return [item for item in items if item.is_changed or not changed]

    def photograph(self, digest: str) -> tuple[bytes, Box | None, AnimalTraits] | None:
        """Return the image file, the box of the animal in it and its traits, or None if it is not queued."""
        columns = (QUERIES.c.data, QUERIES.c.box, QUERIES.c.viewpoint, QUERIES.c.species)
        with translated_errors(), self._engine.connect() as connection:
            found = connection.execute(sql.select(*columns).where(QUERIES.c.digest == digest)).first()
        if found is None:
            return None
        return found.data, found.box, AnimalTraits(found.viewpoint or "", found.species or "")

    def thumbnail(self, digest: str) -> bytes | None:
        """Return the thumbnail (JPEG), or None if the image is not queued."""
        query = sql.select(QUERIES.c.thumbnail).where(QUERIES.c.digest == digest)
        with translated_errors(), self._engine.connect() as connection:
            return connection.execute(query).scalar()

    def removal(self, digest: str) -> Claim:
        """Return the claim of `EnrolmentStore.enrol` that erases an image if it is still queued."""
        return QUERIES.delete().where(QUERIES.c.digest == digest)

    def drop(self, digest: str) -> bool:
        """Erase an image and return whether it was queued."""
        with translated_errors(), self._engine.begin() as connection:
            found = connection.execute(self.removal(digest)).rowcount
        erase_leftovers(self._engine)
        return found > 0


def _read_item(row: Any) -> ReviewItem:
    latest = None
    if row.latest_decision is not None:
        found = (row.latest_nearest, row.latest_distance, row.latest_decision)
        latest = LatestAnswer(row.latest_bundle, *found, since=row.latest_since)
    traits = AnimalTraits(row.viewpoint or "", row.species or "")
    seen = (row.digest, row.at, row.bundle, row.nearest, row.distance, row.decision)
    return ReviewItem(*seen, box=row.box, traits=traits, latest=latest)
