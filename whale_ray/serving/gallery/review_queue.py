"""Photographs of animals that seemed new, or nearly, kept until a person says who they show; and what people said.

Knows the store's tables; knows no bundle, no HTTP and no Ray.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sql
from sqlalchemy.exc import IntegrityError

from whale_ray.serving.gallery.database import QUERIES, erase_leftovers, translated_errors
from whale_ray.serving.gallery.store import EnrolmentStore

REVIEW_FRACTION = 0.75  # of the distance from which on an animal is taken for a new one
MAX_ITEMS = 1000


@dataclass(frozen=True)
class ReviewItem:
    """A photograph that somebody asked about. nearest: the individual it is nearest to, empty where there is none."""

    digest: str
    at: datetime
    bundle: str
    nearest: str
    distance: float
    decision: str


def needs_review(distance: float, new_distance: float | None) -> bool:
    """Whether the nearest individual is so far that a person should look.

    >>> seems_new(0.31, 0.4), seems_new(0.29, 0.4), seems_new(2.0, None)
    (True, False, False)
    """
    return new_distance is not None and distance > REVIEW_FRACTION * new_distance


class ReviewQueue:
    """The photographs that wait for a person, the last `most` of them."""

    def __init__(self, store: EnrolmentStore, *, most: int = MAX_ITEMS) -> None:
        self._engine, self._most = store.engine, most

    def keep(self, query: ReviewItem, *, data: bytes, thumbnail: bytes) -> None:
        """Keeps the photograph; one that is kept already stays as it was. The oldest go where there are too many."""
        row = {**query.__dict__, "data": data, "thumbnail": thumbnail}
        newest = sql.select(QUERIES.c.digest).order_by(QUERIES.c.at.desc()).limit(self._most)
        with translated_errors(), suppress(IntegrityError), self._engine.begin() as connection:
            connection.execute(QUERIES.insert().values(row))
            connection.execute(QUERIES.delete().where(QUERIES.c.digest.not_in(newest)))

    def waiting(self) -> list[ReviewItem]:
        """Every photograph that waits, the last one first."""
        columns = [column for column in QUERIES.c if column.name not in ("data", "thumbnail")]
        with translated_errors(), self._engine.connect() as connection:
            return [ReviewItem(*row) for row in connection.execute(sql.select(*columns).order_by(QUERIES.c.at.desc()))]

    def photograph(self, digest: str) -> bytes | None:
        """The photograph as it was sent; None where it does not wait."""
        return self._part(QUERIES.c.data, digest)

    def thumbnail(self, digest: str) -> bytes | None:
        """Its thumbnail, JPEG; None where it does not wait."""
        return self._part(QUERIES.c.thumbnail, digest)

    def _part(self, column: sql.Column[bytes], digest: str) -> bytes | None:
        with translated_errors(), self._engine.connect() as connection:
            return connection.execute(sql.select(column).where(QUERIES.c.digest == digest)).scalar()

    def drop(self, digest: str) -> bool:
        """Erases the photograph; whether it was there."""
        with translated_errors(), self._engine.begin() as connection:
            found = connection.execute(QUERIES.delete().where(QUERIES.c.digest == digest)).rowcount
        erase_leftovers(self._engine)
        return found > 0
