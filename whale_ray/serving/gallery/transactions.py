"""Gallery transactions: pictures are added, removed or hidden and the version rises, all or nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import sqlalchemy as sql

from whale_ray.errors import NotWaitingError
from whale_ray.serving.gallery.database import translated_errors
from whale_ray.serving.gallery.enrolled_pictures import EnrolledPicture
from whale_ray.serving.gallery.tables import ENTRIES, HIDDEN, IS_CURRENT, KEYPOINTS, PICTURES, STATE, VECTORS, VERSIONS

Claim = sql.Update | sql.Delete
"""A statement that changes a row of a queue if it still waits, and no row otherwise."""
_CHUNK = 500  # names in one statement


@dataclass
class GalleryTransaction:
    """A change in progress. A change of no pictures is not recorded."""

    connection: sql.Connection
    number: int
    pictures: int = 0
    has_claimed: bool = False

    def claim(self, waiting: Claim) -> None:
        """Take a row out of its queue; raise NotWaitingError if another transaction has done so."""
        if not self.connection.execute(waiting).rowcount:
            raise NotWaitingError
        self.has_claimed = True

    def pairs(self, which: sql.ColumnElement[bool]) -> set[tuple[str, str]]:
        """Return (digest, individual) of the selected entries."""
        rows = self.connection.execute(sql.select(ENTRIES.c.digest, ENTRIES.c.individual).where(which))
        return {(digest, individual) for digest, individual in rows}

    def open(self, pairs: set[tuple[str, str]]) -> None:
        """Digests under individuals come into the gallery."""
        rows = [{"digest": digest, "individual": name, "since": self.number} for digest, name in sorted(pairs)]
        if rows:
            self.connection.execute(ENTRIES.insert(), rows)
        self.pictures += len(rows)

    def close(self, pairs: set[tuple[str, str]]) -> None:
        """Digests under individuals leave the gallery; older versions still have them."""
        for part in chunk_names(digest for digest, _ in pairs):
            which = IS_CURRENT & ENTRIES.c.digest.in_(part)
            self.connection.execute(ENTRIES.update().where(which).values(until=self.number))
        self.pictures += len(pairs)

    def keep(self, picture: EnrolledPicture, bundle: str) -> None:
        """Store a picture and its vector unless an earlier version has them, and its local features.

        Args:
            picture: The picture.
            bundle: Id of the bundle that made its vector.
        """
        row = {name: getattr(picture, name) for name in ("digest", "name", "data", "thumbnail", "box")}
        row |= {"viewpoint": picture.traits.viewpoint, "species": picture.traits.species}
        if not self._there(PICTURES, PICTURES.c.digest == picture.digest):
            self.connection.execute(PICTURES.insert().values(row))
        if not self._there(VECTORS, (VECTORS.c.digest == picture.digest) & (VECTORS.c.bundle == bundle)):
            vector = {"digest": picture.digest, "bundle": bundle, "vector": vector_bytes(picture.vector)}
            self.connection.execute(VECTORS.insert().values(vector))
        if picture.keypoints is not None:
            same = (KEYPOINTS.c.digest == picture.digest) & (KEYPOINTS.c.kind == picture.keypoints.kind)
            self.connection.execute(KEYPOINTS.delete().where(same))
            self.connection.execute(KEYPOINTS.insert().values(digest=picture.digest, **picture.keypoints._asdict()))

    def hide(self, kind: str, name: str) -> bool:
        """Hide an image or individual of the bundle for good; return whether it was visible before.

        Args:
            kind: `image` or `individual`.
            name: Its name.
        """
        if self._there(HIDDEN, (HIDDEN.c.kind == kind) & (HIDDEN.c.name == name)):
            return False
        self.connection.execute(HIDDEN.insert().values(kind=kind, name=name))
        return True

    def _there(self, table: sql.Table, which: sql.ColumnElement[bool]) -> bool:
        return self.connection.execute(sql.select(sql.literal(1)).select_from(table).where(which)).first() is not None


@contextmanager
def gallery_transaction(engine: sql.Engine, kind: str) -> Iterator[GalleryTransaction]:
    """Yield a transaction; it is committed when the block ends without an error and has changed something.

    Args:
        engine: The database.
        kind: `enrol`, `forget` or `restore`.
    """
    with translated_errors(), engine.connect() as connection:
        # This row is what writers wait for: PostgreSQL locks it, SQLite the database.
        connection.execute(STATE.update().values(version=STATE.c.version + 1))
        change = GalleryTransaction(connection, connection.execute(sql.select(STATE.c.version)).scalar_one())
        yield change
        if change.pictures:
            row = {"number": change.number, "at": datetime.now(UTC), "kind": kind, "pictures": change.pictures}
            connection.execute(VERSIONS.insert().values(row))
        elif change.has_claimed:  # of a picture that the gallery has already: no new version
            connection.execute(STATE.update().values(version=STATE.c.version - 1))
        if change.pictures or change.has_claimed:
            connection.commit()


def vector_bytes(vector: np.ndarray) -> bytes:
    """Return a vector as stored: float16, little-endian."""
    return vector.astype("<f2").tobytes()


def chunk_names(names: Iterable[str]) -> Iterator[list[str]]:
    """Yield the names in order, as many at a time as one statement takes."""
    everything = sorted(names)
    for start in range(0, len(everything), _CHUNK):
        yield everything[start : start + _CHUNK]
