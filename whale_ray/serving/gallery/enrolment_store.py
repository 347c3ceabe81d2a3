"""Enrolment store: pictures of individuals, durable, in versions, and erased when forgotten.

A vector belongs to the bundle that made it. Every change is one transaction that first raises the version, so that
changes have one order and comparing versions misses none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TypeVarTuple

import numpy as np
import sqlalchemy as sql
from sqlalchemy.exc import IntegrityError

from whale_ray.errors import EnrolledElsewhereError, NoSuchVersionError
from whale_ray.inference.predictions import AnimalTraits
from whale_ray.serving.gallery.check_database_exists import check_database_exists
from whale_ray.serving.gallery.database import connect, erase_leftovers, read_version, translated_errors
from whale_ray.serving.gallery.enrolled_pictures import EnrolledPicture, Entry, StoreState, Version
from whale_ray.serving.gallery.tables import (
    ENTRIES,
    HIDDEN,
    IS_CURRENT,
    PICTURES,
    PROPOSALS,
    QUERIES,
    STATE,
    VECTORS,
    VERSIONS,
)
from whale_ray.serving.gallery.transactions import Claim, chunk_names, gallery_transaction, vector_bytes

_Row = TypeVarTuple("_Row")
_IMAGE, _INDIVIDUAL = "image", "individual"


class EnrolmentStore:
    """Database of enrolled and forgotten pictures, shared by all replicas and all bundles.

    Args:
        url: SQLAlchemy URL of a SQLite or PostgreSQL database.
        create: Make the database and its tables if they do not exist; False refuses such a database.

    Raises:
        StoreError: If the database cannot be used; every method raises it when the database does not answer.
    """

    def __init__(self, url: str, *, create: bool = True) -> None:
        if not create:
            check_database_exists(url)
        self.engine = connect(url)
        erase_leftovers(self.engine)  # of a process that was killed while it forgot

    def close(self) -> None:
        """Lets go of the database."""
        self.engine.dispose()

    @property
    def is_of_one_machine(self) -> bool:
        """Return whether only processes of one machine may share the database."""
        return self.engine.dialect.name == "sqlite"

    def version(self) -> int:
        """Return the number of the last change, 0 if there is none; read before every search."""
        return read_version(self.engine)

    def state(self) -> StoreState:
        """Return the current state beside the bundle's gallery."""
        with self._reading() as connection:
            # The version first: what is changed while this reads is then read once more.
            version = connection.execute(sql.select(STATE.c.version)).scalar_one()
            hidden = connection.execute(sql.select(HIDDEN.c.kind, HIDDEN.c.name)).all()
            picture, own = PICTURES.c, (PICTURES.c.viewpoint, PICTURES.c.species)
            columns = sql.select(picture.digest, picture.name, ENTRIES.c.individual, picture.box, *own)
            rows = connection.execute(_join_current(columns).order_by(ENTRIES.c.number)).all()
        images, individuals = (frozenset(name for of, name in hidden if of == kind) for kind in (_IMAGE, _INDIVIDUAL))
        entries = [
            Entry(digest, name, individual, box, AnimalTraits(viewpoint or "", species or ""))
            for digest, name, individual, box, viewpoint, species in rows
        ]
        return StoreState(version, tuple(entries), images, individuals)

    def enrol(
        self, individual: str, pictures: Sequence[EnrolledPicture], *, bundle: str, claim: Claim | None = None
    ) -> list[bool]:
        """Add pictures, all or none; return whether each is new. A picture that is already there stays.

        Args:
            individual: Name of the individual.
            pictures: The pictures.
            bundle: Id of the bundle that made their vectors.
            claim: Statement that takes the picture out of the queue where it waits, in the same transaction.

        Raises:
            EnrolledElsewhereError: If a picture is enrolled as another individual.
            NotWaitingError: If the claim changes no row.
        """
        fresh = {picture.digest: picture for picture in pictures}
        with gallery_transaction(self.engine, "enrol") as change:
            if claim is not None:
                change.claim(claim)
            there = dict(change.pairs(IS_CURRENT & ENTRIES.c.digest.in_(fresh)))
            for place, picture in enumerate(pictures):
                if there.get(picture.digest, individual) != individual:
                    raise EnrolledElsewhereError(place, there[picture.digest])
            for picture in fresh.values():
                if picture.digest not in there:
                    change.keep(picture, bundle)
            change.open({(digest, individual) for digest in fresh.keys() - there.keys()})
        if claim is not None:
            erase_leftovers(self.engine)
        return [picture.digest not in there for picture in pictures]

    def forget_image(self, individual: str, image: str, *, hide: bool, aliases: Iterable[str] = ()) -> int:
        """Erase a picture from every version and return how many pictures that were.

        Args:
            individual: Its individual.
            image: Its name.
            hide: Also hide the picture of the bundle's own gallery; that counts as one.
            aliases: Other names of it.
        """
        digests = sql.select(PICTURES.c.digest).where(PICTURES.c.name.in_([image, *aliases]))
        which = (ENTRIES.c.individual == individual) & ENTRIES.c.digest.in_(digests)
        return self._forget(which, (_IMAGE, image) if hide else None)

    def forget_individual(self, individual: str, *, hide: bool) -> int:
        """Erase every picture of an individual from every version and return how many that were.

        Proposals of the individual that wait are erased, too, and counted.

        Args:
            individual: The individual.
            hide: Also hide the individual in the galleries of all bundles; that counts as one.
        """
        waits = (PROPOSALS.c.individual == individual) & PROPOSALS.c.data.is_not(None)
        with translated_errors(), self.engine.begin() as connection:
            proposed = connection.execute(PROPOSALS.delete().where(waits)).rowcount
        hidden = (_INDIVIDUAL, individual) if hide else None
        return proposed + self._forget(ENTRIES.c.individual == individual, hidden)

    def _forget(self, which: sql.ColumnElement[bool], hide: tuple[str, str] | None) -> int:
        with gallery_transaction(self.engine, "forget") as change:
            connection = change.connection
            digests = connection.execute(sql.select(ENTRIES.c.digest).where(which).distinct()).scalars().all()
            connection.execute(ENTRIES.delete().where(which))
            # What another individual holds, or held in some version, is not this one's to erase.
            kept = sql.select(ENTRIES.c.digest)
            for part in chunk_names(digests):
                gone = PICTURES.c.digest.in_(part) & PICTURES.c.digest.not_in(kept)
                for name in connection.execute(sql.select(PICTURES.c.name).where(gone)).scalars().all():
                    change.hide(_IMAGE, name)  # a bundle that was trained with it meanwhile shows it no longer
                waits = PROPOSALS.c.digest.in_(part) & PROPOSALS.c.data.is_not(None)
                connection.execute(PROPOSALS.delete().where(waits))
                for table in (QUERIES, PICTURES):  # with a picture go its vectors
                    gone = table.c.digest.in_(part) & table.c.digest.not_in(kept)
                    connection.execute(table.delete().where(gone))
            change.pictures = len(digests) + (hide is not None and change.hide(*hide))
        erase_leftovers(self.engine)
        return change.pictures

    def versions(self) -> list[Version]:
        """Return every change, the last one first."""
        with self._reading() as connection:
            rows = connection.execute(sql.select(VERSIONS).order_by(VERSIONS.c.number.desc())).all()
        return [Version(*row) for row in rows]

    def restore(self, number: int) -> int:
        """Restore the gallery of an earlier version, without what was forgotten since, and return the new version.

        Hidden pictures stay hidden.

        Raises:
            NoSuchVersionError: If there was no such version.
        """
        with gallery_transaction(self.engine, "restore") as change:
            if not 0 <= number < change.number:
                raise NoSuchVersionError(number, change.number - 1)
            then = (ENTRIES.c.since <= number) & (IS_CURRENT | (ENTRIES.c.until > number))
            was, now = (change.pairs(which) for which in (then, IS_CURRENT))
            change.close(now - was)
            change.open(was - now)
        return self.version()

    def vectors(self, bundle: str, digests: Iterable[str]) -> dict[str, np.ndarray]:
        """Return the stored embeddings (float16) of pictures by this bundle.

        Args:
            bundle: Id of the bundle.
            digests: `picture_digest` of the pictures.
        """
        found: dict[str, np.ndarray] = {}
        with self._reading() as connection:
            for part in chunk_names(digests):
                which = (VECTORS.c.bundle == bundle) & VECTORS.c.digest.in_(part)
                rows = connection.execute(sql.select(VECTORS.c.digest, VECTORS.c.vector).where(which))
                found |= {digest: np.frombuffer(vector, "<f2") for digest, vector in rows}
        return found

    def add_vectors(self, bundle: str, vectors: Mapping[str, np.ndarray]) -> None:
        """Store embeddings of pictures; forgotten pictures and stored embeddings are skipped.

        Args:
            bundle: Id of the bundle.
            vectors: Embedding by digest.
        """
        for digest, vector in vectors.items():
            row = {"digest": digest, "bundle": bundle, "vector": vector_bytes(vector)}
            with translated_errors(), suppress(IntegrityError), self.engine.begin() as connection:
                connection.execute(VECTORS.insert().values(row))

    def picture(self, image: str) -> bytes | None:
        """Return the picture of this name as it was sent; None if it is not in the gallery."""
        return self._of_image(PICTURES.c.data, image)

    def thumbnail(self, image: str) -> bytes | None:
        """Return the JPEG thumbnail of the picture of this name; None if it is not in the gallery."""
        return self._of_image(PICTURES.c.thumbnail, image)

    def _of_image(self, column: sql.Column[bytes], image: str) -> bytes | None:
        with self._reading() as connection:
            return connection.execute(_join_current(sql.select(column)).where(PICTURES.c.name == image)).scalar()

    @contextmanager
    def _reading(self) -> Iterator[sql.Connection]:
        with translated_errors(), self.engine.connect() as connection:
            yield connection


def _join_current(query: sql.Select[*_Row]) -> sql.Select[*_Row]:
    """Return the query restricted to pictures in the current gallery."""
    return query.join(ENTRIES, ENTRIES.c.digest == PICTURES.c.digest).where(IS_CURRENT)
