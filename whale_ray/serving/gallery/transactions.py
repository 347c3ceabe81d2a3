"""One change of the gallery as one transaction: pictures come in, go out or are hidden, and the version rises.

Knows SQL; knows no bundle, no HTTP and no Ray. Changes stand in one order, and whoever compares versions misses none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import sqlalchemy as sql

from whale_ray.serving.gallery.database import (
    ENTRIES,
    HIDDEN,
    IS_CURRENT,
    PICTURES,
    STATE,
    VECTORS,
    VERSIONS,
    translated_errors,
)

_CHUNK = 500  # names in one statement


@dataclass(frozen=True)
class EnrolledPicture:
    """A picture to be enrolled. digest: sha256 of `data`, in hex; name: what it is called from now on."""

    digest: str
    name: str
    data: bytes
    thumbnail: bytes
    vector: np.ndarray


@dataclass
class GalleryTransaction:
    """A change under way. pictures: how many it changes; where none, it has not been."""

    connection: sql.Connection
    number: int
    pictures: int = 0

    def pairs(self, which: sql.ColumnElement[bool]) -> set[tuple[str, str]]:
        """The digests, each with its individual, of such entries."""
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
        """Keeps the picture and its vector, where an earlier version has not left them."""
        row = {"digest": picture.digest, "name": picture.name, "data": picture.data, "thumbnail": picture.thumbnail}
        if not self._there(PICTURES, PICTURES.c.digest == picture.digest):
            self.connection.execute(PICTURES.insert().values(row))
        if not self._there(VECTORS, (VECTORS.c.digest == picture.digest) & (VECTORS.c.bundle == bundle)):
            vector = {"digest": picture.digest, "bundle": bundle, "vector": vector_bytes(picture.vector)}
            self.connection.execute(VECTORS.insert().values(vector))

    def hide(self, kind: str, name: str) -> bool:
        """Hides an image or an individual of the bundle for good; whether it was to be seen before."""
        if self._there(HIDDEN, (HIDDEN.c.kind == kind) & (HIDDEN.c.name == name)):
            return False
        self.connection.execute(HIDDEN.insert().values(kind=kind, name=name))
        return True

    def _there(self, table: sql.Table, which: sql.ColumnElement[bool]) -> bool:
        return self.connection.execute(sql.select(sql.literal(1)).select_from(table).where(which)).first() is not None


@contextmanager
def gallery_transaction(engine: sql.Engine, kind: str) -> Iterator[GalleryTransaction]:
    """A change, written when the block ends without error and has changed something; nothing of it otherwise."""
    with translated_errors(), engine.connect() as connection:
        # This row is what writers wait for: PostgreSQL locks it, SQLite the database.
        connection.execute(STATE.update().values(version=STATE.c.version + 1))
        change = GalleryTransaction(connection, connection.execute(sql.select(STATE.c.version)).scalar_one())
        yield change
        if change.pictures:
            row = {"number": change.number, "at": datetime.now(UTC), "kind": kind, "pictures": change.pictures}
            connection.execute(VERSIONS.insert().values(row))
            connection.commit()


def vector_bytes(vector: np.ndarray) -> bytes:
    """A vector as it is stored: float16, the low byte first."""
    return vector.astype("<f2").tobytes()


def chunk_names(names: Iterable[str]) -> Iterator[list[str]]:
    """The names in order, as many at a time as one statement takes."""
    everything = sorted(names)
    for start in range(0, len(everything), _CHUNK):
        yield everything[start : start + _CHUNK]
