"""Review queue: images of individuals that seem new, kept until a person names or rejects them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sql
from sqlalchemy.exc import IntegrityError

from whale_ray.serving.gallery.database import QUERIES, erase_leftovers, translated_errors
from whale_ray.serving.gallery.enrolment_store import EnrolmentStore

REVIEW_FRACTION = 0.75  # of the distance from which on an animal is taken for a new one
MAX_ITEMS = 1000


@dataclass(frozen=True)
class ReviewItem:
    """A queried image; `nearest` is the nearest individual, or empty."""

    digest: str
    at: datetime
    bundle: str
    nearest: str
    distance: float
    decision: str


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

    def photograph(self, digest: str) -> bytes | None:
        """Return the image file, or None if it is not queued."""
        return self._part(QUERIES.c.data, digest)

    def thumbnail(self, digest: str) -> bytes | None:
        """Return the thumbnail (JPEG), or None if the image is not queued."""
        return self._part(QUERIES.c.thumbnail, digest)

    def _part(self, column: sql.Column[bytes], digest: str) -> bytes | None:
        with translated_errors(), self._engine.connect() as connection:
            return connection.execute(sql.select(column).where(QUERIES.c.digest == digest)).scalar()

    def drop(self, digest: str) -> bool:
        """Erase an image and return whether it was queued."""
        with translated_errors(), self._engine.begin() as connection:
            found = connection.execute(QUERIES.delete().where(QUERIES.c.digest == digest)).rowcount
        erase_leftovers(self._engine)
        return found > 0
