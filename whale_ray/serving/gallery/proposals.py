"""Proposed enrolments: photographs that wait for a second person, and who proposed and decided them when.

They are in no gallery. A decided proposal keeps its names and times; its photograph is erased.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sql

from whale_ray.data.image_io import Box
from whale_ray.errors import StoreError
from whale_ray.inference.predictions import AnimalTraits
from whale_ray.serving.gallery.database import erase_leftovers, translated_errors
from whale_ray.serving.gallery.enrolled_pictures import EnrolledPicture
from whale_ray.serving.gallery.enrolment_store import EnrolmentStore
from whale_ray.serving.gallery.tables import PROPOSALS, STATE
from whale_ray.serving.gallery.transactions import Claim

WAITING, APPROVED, REJECTED = "waiting", "approved", "rejected"
MOST_WAITING = 10_000
_SHOWN = [column for column in PROPOSALS.c if column.name not in ("data", "thumbnail")]


@dataclass(frozen=True)
class Proposal:
    """A proposed enrolment; `decided_by` and `decided_at` are None while it waits."""

    number: int
    individual: str
    state: str
    proposed_by: str
    proposed_at: datetime
    decided_by: str | None
    decided_at: datetime | None
    box: Box | None
    traits: AnimalTraits


@dataclass(frozen=True)
class ProposedPicture:
    """The photograph of a proposal that waits."""

    proposal: Proposal
    data: bytes
    thumbnail: bytes


class Proposals:
    """The proposals in an enrolment database.

    Args:
        store: The database.
    """

    def __init__(self, store: EnrolmentStore) -> None:
        self._engine = store.engine

    def propose(self, individual: str, pictures: Sequence[EnrolledPicture], *, by: str) -> list[int]:
        """Add proposals, all or none, and return their numbers; one that waits already is not added again.

        Args:
            individual: Name of the individual.
            pictures: The photographs.
            by: Name of the key that proposes.

        Raises:
            StoreError: If `MOST_WAITING` proposals wait already.
        """
        waits = PROPOSALS.c.state == WAITING
        count = sql.select(sql.func.count()).select_from(PROPOSALS).where(waits)
        with translated_errors(), self._engine.begin() as connection:
            # Writing first makes other writers wait; SQLite refuses a transaction that reads first and writes then.
            connection.execute(STATE.update().values(version=STATE.c.version))
            if connection.execute(count).scalar_one() + len(pictures) > MOST_WAITING:
                raise StoreError(f"at most {MOST_WAITING} proposals may wait. Decide some of them first")
            numbers = []
            for picture in pictures:
                same = waits & (PROPOSALS.c.digest == picture.digest) & (PROPOSALS.c.individual == individual)
                number = connection.execute(sql.select(PROPOSALS.c.number).where(same)).scalar()
                numbers.append(number or self._add(connection, individual, picture, by))
        return numbers

    def _add(self, connection: sql.Connection, individual: str, picture: EnrolledPicture, by: str) -> int:
        row = {name: getattr(picture, name) for name in ("digest", "box", "data", "thumbnail")}
        row |= {"viewpoint": picture.traits.viewpoint, "species": picture.traits.species}
        row |= {"individual": individual, "state": WAITING, "proposed_by": by, "proposed_at": datetime.now(UTC)}
        added = connection.execute(PROPOSALS.insert().values(row)).inserted_primary_key
        assert added is not None
        return int(added[0])

    def list(self, state: str) -> list[Proposal]:
        """Return the proposals in a state, the last one first."""
        query = sql.select(*_SHOWN).where(PROPOSALS.c.state == state).order_by(PROPOSALS.c.number.desc())
        with translated_errors(), self._engine.connect() as connection:
            return [_read(row) for row in connection.execute(query)]

    def waiting(self, number: int) -> ProposedPicture | None:
        """Return a proposal that waits, with its photograph; None if there is none of this number."""
        query = sql.select(PROPOSALS).where((PROPOSALS.c.number == number) & (PROPOSALS.c.state == WAITING))
        with translated_errors(), self._engine.connect() as connection:
            row = connection.execute(query).first()
        return None if row is None else ProposedPicture(_read(row), row.data, row.thumbnail)

    def approval(self, number: int, *, by: str) -> Claim:
        """Return the claim of `EnrolmentStore.enrol` that approves a proposal if it still waits.

        Args:
            number: Number of the proposal.
            by: Name of the key that approves.
        """
        return _decision(number, APPROVED, by)

    def reject(self, number: int, *, by: str) -> bool:
        """Erase the photograph of a proposal and return whether it still waited.

        Args:
            number: Number of the proposal.
            by: Name of the key that rejects.
        """
        with translated_errors(), self._engine.begin() as connection:
            found = connection.execute(_decision(number, REJECTED, by)).rowcount
        erase_leftovers(self._engine)
        return found > 0


def _decision(number: int, state: str, by: str) -> sql.Update:
    """Return the statement that records a decision and erases the photograph, unless another decision came first."""
    is_waiting = (PROPOSALS.c.number == number) & (PROPOSALS.c.state == WAITING)
    values = {"state": state, "decided_by": by, "decided_at": datetime.now(UTC), "data": None, "thumbnail": None}
    return PROPOSALS.update().where(is_waiting).values(values)


def _read(row: Any) -> Proposal:
    traits = AnimalTraits(row.viewpoint or "", row.species or "")
    people = (row.proposed_by, row.proposed_at, row.decided_by, row.decided_at)
    return Proposal(row.number, row.individual, row.state, *people, row.box, traits)
