"""Tables of the enrolment store, and the steps from older formats of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sql

from whale_ray.data.decoding.box_arguments import parse_box
from whale_ray.data.formats.animal_rows import box_text
from whale_ray.data.image_io import Box

FORMAT_VERSION = 5
METADATA = sql.MetaData()
_DIGEST = sql.String(64)


class _BoxText(sql.types.TypeDecorator[Box]):
    """A box as `x0,y0,x1,y1`; null for the whole photograph."""

    impl = sql.Text
    cache_ok = True

    def process_bind_param(self, value: Box | None, dialect: sql.Dialect) -> str | None:
        """Return the text of a box.

        Args:
            value: The box.
            dialect: The dialect of the database.
        """
        return value and box_text(value)

    def process_result_value(self, value: str | None, dialect: sql.Dialect) -> Box | None:
        """Return the box of a text.

        Args:
            value: The stored text.
            dialect: The dialect of the database.
        """
        return parse_box(value) if value else None


class _UtcDateTime(sql.types.TypeDecorator[datetime]):
    """A point in time in UTC; SQLite drops the zone."""

    impl = sql.DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: sql.Dialect) -> datetime | None:
        """Return the time in UTC; SQLite returns it without a zone.

        Args:
            value: The stored time.
            dialect: The dialect of the database.
        """
        return value and (value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC))


STATE = sql.Table(
    "whale_ray_store",
    METADATA,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("format", sql.Integer, nullable=False),
    sql.Column("version", sql.Integer, nullable=False),
)
VERSIONS = sql.Table(
    "versions",
    METADATA,
    sql.Column("number", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("at", _UtcDateTime, nullable=False),
    sql.Column("kind", sql.String(16), nullable=False),
    sql.Column("pictures", sql.Integer, nullable=False),
)
PICTURES = sql.Table(
    "pictures",
    METADATA,
    sql.Column("digest", _DIGEST, primary_key=True),  # of photograph and box
    sql.Column("name", sql.String(100), nullable=False, unique=True),
    sql.Column("data", sql.LargeBinary, nullable=False),
    sql.Column("thumbnail", sql.LargeBinary, nullable=False),
    sql.Column("box", _BoxText),
    sql.Column("viewpoint", sql.Text),
    sql.Column("species", sql.Text),
)
# A picture is in the gallery from version `since` to the one before `until`; without `until` it is there now.
ENTRIES = sql.Table(
    "entries",
    METADATA,
    sql.Column("number", sql.Integer, primary_key=True),
    sql.Column("digest", _DIGEST, nullable=False),
    sql.Column("individual", sql.Text, nullable=False, index=True),
    sql.Column("since", sql.Integer, nullable=False),
    sql.Column("until", sql.Integer),
)
IS_CURRENT = ENTRIES.c.until.is_(None)
sql.Index("entries_now", ENTRIES.c.digest, unique=True, sqlite_where=IS_CURRENT, postgresql_where=IS_CURRENT)
VECTORS = sql.Table(
    "vectors",
    METADATA,
    sql.Column("digest", _DIGEST, sql.ForeignKey(PICTURES.c.digest, ondelete="CASCADE"), primary_key=True),
    sql.Column("bundle", sql.Text, primary_key=True),
    sql.Column("vector", sql.LargeBinary, nullable=False),
)
# A version that does not know this table leaves it alone: it needs no format of its own.
KEYPOINTS = sql.Table(
    "keypoints",
    METADATA,
    sql.Column("digest", _DIGEST, sql.ForeignKey(PICTURES.c.digest, ondelete="CASCADE"), primary_key=True),
    sql.Column("kind", sql.String(16), primary_key=True),
    sql.Column("version", sql.Integer, nullable=False),  # of the features
    sql.Column("features", sql.LargeBinary, nullable=False),
)
HIDDEN = sql.Table(
    "hidden",
    METADATA,
    sql.Column("kind", sql.String(16), primary_key=True),
    sql.Column("name", sql.Text, primary_key=True),
)
QUERIES = sql.Table(
    "queries",
    METADATA,
    sql.Column("digest", _DIGEST, primary_key=True),
    sql.Column("at", _UtcDateTime, nullable=False),
    sql.Column("bundle", sql.Text, nullable=False),
    sql.Column("nearest", sql.Text, nullable=False),
    sql.Column("distance", sql.Float, nullable=False),
    sql.Column("decision", sql.String(16), nullable=False),
    sql.Column("data", sql.LargeBinary, nullable=False),
    sql.Column("thumbnail", sql.LargeBinary, nullable=False),
    sql.Column("box", _BoxText),
    sql.Column("viewpoint", sql.Text),
    sql.Column("species", sql.Text),
    # The answer of the last search: null before the first one, or if the photograph could not be searched.
    sql.Column("latest_bundle", sql.Text),
    sql.Column("latest_version", sql.Integer),
    sql.Column("latest_nearest", sql.Text),
    sql.Column("latest_distance", sql.Float),
    sql.Column("latest_decision", sql.String(16)),
    sql.Column("latest_since", _UtcDateTime),  # first search with this nearest individual and decision
)
QUERY_VECTORS = sql.Table(
    "query_vectors",
    METADATA,
    sql.Column("digest", _DIGEST, sql.ForeignKey(QUERIES.c.digest, ondelete="CASCADE"), primary_key=True),
    sql.Column("bundle", sql.Text, primary_key=True),
    sql.Column("vector", sql.LargeBinary, nullable=False),
)
# What waits has its photograph; what is decided keeps who and when alone.
PROPOSALS = sql.Table(
    "proposals",
    METADATA,
    sql.Column("number", sql.Integer, primary_key=True),
    sql.Column("digest", _DIGEST, nullable=False, index=True),
    sql.Column("individual", sql.Text, nullable=False, index=True),
    sql.Column("state", sql.String(16), nullable=False),
    sql.Column("proposed_by", sql.Text, nullable=False),
    sql.Column("proposed_at", _UtcDateTime, nullable=False),
    sql.Column("decided_by", sql.Text),
    sql.Column("decided_at", _UtcDateTime),
    sql.Column("box", _BoxText),
    sql.Column("viewpoint", sql.Text),
    sql.Column("species", sql.Text),
    sql.Column("data", sql.LargeBinary),
    sql.Column("thumbnail", sql.LargeBinary),
)
_ADDED_COLUMNS: dict[int, tuple[sql.Column[Any], ...]] = {
    2: (PICTURES.c.box, QUERIES.c.box),
    3: (PICTURES.c.viewpoint, PICTURES.c.species),
    4: (
        *(QUERIES.c[name] for name in ("viewpoint", "species", "latest_bundle", "latest_version")),
        *(QUERIES.c[name] for name in ("latest_nearest", "latest_distance", "latest_decision")),
    ),
    5: (QUERIES.c.latest_since,),
}
"""Nullable columns that each format added to the one before."""


def upgrade_tables(engine: sql.Engine) -> None:
    """Add the columns that a database of an older format lacks; several processes may do so at once."""
    for number, columns in sorted(_ADDED_COLUMNS.items()):
        with engine.begin() as connection:
            # The update comes first: it makes other processes wait until the columns are there.
            is_older = STATE.c.format == number - 1
            if not connection.execute(STATE.update().where(is_older).values(format=number)).rowcount:
                continue
            for column in columns:
                existing = {found["name"] for found in sql.inspect(connection).get_columns(column.table.name)}
                if column.name not in existing:
                    definition = sql.schema.CreateColumn(column).compile(dialect=engine.dialect)
                    connection.exec_driver_sql(f"ALTER TABLE {column.table.name} ADD COLUMN {definition}")
