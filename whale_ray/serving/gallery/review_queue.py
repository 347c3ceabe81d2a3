"""Review queue: images of individuals that seem new, kept until a person names or rejects them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sql
from sqlalchemy.exc import IntegrityError

from whale_ray.data.image_io import Box
from whale_ray.serving.gallery.database import erase_leftovers, translated_errors
from whale_ray.serving.gallery.enrolment_store import EnrolmentStore
from whale_ray.serving.gallery.tables import QUERIES

REVIEW_FRACTION = 0.75  # of the distance from which on an animal is taken for a new one
MAX_ITEMS = 1000


@dataclass(frozen=True)
class ReviewItem:
    """A queried image, or the box of an animal in it; `nearest` is the nearest individual, or empty."""

    digest: str
    at: datetime
    bundle: str
    nearest: str
    distance: float
    decision: str
    box: Box | None = None


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
        row = {**query.__dict__, "data": data, "thumbnail": thumbnail}
        newest = sql.select(QUERIES.c.digest).order_by(QUERIES.c.at.desc()).limit(self._most)
        with translated_errors(), suppress(IntegrityError), self._engine.begin() as connection:
            connection.execute(QUERIES.insert().values(row))
            connection.execute(QUERIES.delete().where(QUERIES.c.digest.not_in(newest)))

    def waiting(self) -> list[ReviewItem]:
        """Return all entries, the latest first."""
        columns = [column for column in QUERIES.c if column.name not in ("data", "thumbnail")]
        with translated_errors(), self._engine.connect() as connection:
            return [ReviewItem(*row) for row in connection.execute(sql.select(*columns).order_by(QUERIES.c.at.desc()))]

    def photograph(self, digest: str) -> tuple[bytes, Box | None] | None:
        """Return the image file and the box of the animal in it, or None if it is not queued."""
        query = sql.select(QUERIES.c.data, QUERIES.c.box).where(QUERIES.c.digest == digest)
        with translated_errors(), self._engine.connect() as connection:
            found = connection.execute(query).first()
        return None if found is None else (found.data, found.box)

    def thumbnail(self, digest: str) -> bytes | None:
        """Return the thumbnail (JPEG), or None if the image is not queued."""
        query = sql.select(QUERIES.c.thumbnail).where(QUERIES.c.digest == digest)
        with translated_errors(), self._engine.connect() as connection:
            return connection.execute(query).scalar()

    def drop(self, digest: str) -> bool:
        """Erase an image and return whether it was queued."""
        with translated_errors(), self._engine.begin() as connection:
            found = connection.execute(QUERIES.delete().where(QUERIES.c.digest == digest)).rowcount
        erase_leftovers(self._engine)
        return found > 0
