"""Connections to the enrolment store on which commits are durable and deletions erase."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, OperationalError, ProgrammingError

from whale_ray.errors import StoreError
from whale_ray.serving.gallery.tables import FORMAT_VERSION, METADATA, STATE, upgrade_tables

_TIMEOUT_SECONDS = 10  # for another writer
# A database that falls silent must not hold up every call for ever.
_POSTGRESQL_TIMEOUTS = {
    "connect_timeout": 5,
    "tcp_user_timeout": 1000 * _TIMEOUT_SECONDS,
    "options": f"-c statement_timeout={1000 * _TIMEOUT_SECONDS}",
}


def connect(url: str) -> sql.Engine:
    """Return an engine on a database, with missing tables created and tables of older formats upgraded.

    Raises:
        StoreError: If the URL is invalid or unsupported, or a newer version wrote the database.
    """
    engine = open_engine(url)
    if engine.dialect.name == "sqlite":
        Path(str(engine.url.database)).absolute().parent.mkdir(parents=True, exist_ok=True)
    try:
        _check_tables(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _check_tables(engine: sql.Engine) -> None:
    with translated_errors():
        try:
            _make_tables(engine)
        except (IntegrityError, OperationalError, ProgrammingError):  # another replica makes them at this moment
            _make_tables(engine)
        found = _read_format(engine)
        if 0 < found < FORMAT_VERSION:
            upgrade_tables(engine)
            found = _read_format(engine)
    if found != FORMAT_VERSION:
        raise StoreError(
            f"this version reads stores up to format {FORMAT_VERSION}, but {engine.url} has format {found}. Update "
            "whale_ray"
        )


def _read_format(engine: sql.Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(sql.select(STATE.c.format)).scalar_one())


def open_engine(url: str) -> sql.Engine:
    """Return an engine on a database, whose content is not looked at.

    Raises:
        StoreError: If the URL is invalid or unsupported.
    """
    try:
        address = sql.make_url(url)
        backend = address.get_backend_name()
        if backend == "postgresql":
            patience = {name: value for name, value in _POSTGRESQL_TIMEOUTS.items() if name not in address.query}
            address = address.set(drivername="postgresql+psycopg")
            return sql.create_engine(address, pool_pre_ping=True, connect_args=patience)
        if backend == "sqlite" and address.database not in (None, "", ":memory:"):
            return _sqlite(address)
    except ArgumentError:
        pass
    except ImportError as error:
        raise StoreError(
            f"PostgreSQL needs psycopg, which is missing ({error}). pip install 'psycopg[binary]'"
        ) from None
    raise StoreError(
        "a store must be a URL such as sqlite:///enrolled.db or postgresql://user@host/name, but is neither. Use one"
    )


def _sqlite(address: sql.URL) -> sql.Engine:
    engine = sql.create_engine(address, connect_args={"timeout": _TIMEOUT_SECONDS})
    sql.event.listen(engine, "connect", _prepare_sqlite)
    sql.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # Python's own transactions begin too late
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sql.Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _make_tables(engine: sql.Engine) -> None:
    with engine.begin() as connection:
        METADATA.create_all(connection)
        if connection.execute(sql.select(STATE.c.id)).first() is None:
            connection.execute(STATE.insert().values(id=1, format=FORMAT_VERSION, version=0))


def erase_leftovers(engine: sql.Engine) -> None:
    """Remove deleted bytes from SQLite's log; the deletion itself has overwritten the file.

    What PostgreSQL keeps until its next vacuum, in its log and in backups, is up to its administrator.
    """
    if engine.dialect.name == "sqlite":
        with driver_connection(engine) as connection:  # a checkpoint cannot be part of a transaction
            connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")


def read_version(engine: sql.Engine) -> int:
    """Return the number of the last change through the bare driver, since every search waits for it.

    Raises:
        StoreError: If the database does not answer.
    """
    with driver_connection(engine) as connection:
        cursor = connection.cursor()
        cursor.execute(f"SELECT {STATE.c.version.name} FROM {STATE.name}")
        return int(next(iter(cursor.fetchall()))[0])


@contextmanager
def driver_connection(engine: sql.Engine) -> Iterator[sql.PoolProxiedConnection]:
    """Yield a bare driver connection, without SQLAlchemy's work per statement.

    Raises:
        StoreError: For every error of the database.
    """
    driver: Any = engine.dialect.dbapi
    try:
        with translated_errors(), closing(engine.raw_connection()) as connection:
            yield connection
    except driver.Error as error:
        raise _store_error(error) from error


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise a StoreError for errors of the database, without the statement and its values."""
    try:
        yield
    except DBAPIError as error:
        raise _store_error(error) from error


def _store_error(error: BaseException) -> StoreError:
    error = error.orig or error if isinstance(error, DBAPIError) else error  # without the statement and its values
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return StoreError(
        f"the database of enrolments must answer, but: {reason}. Try again; check the database if this does not pass"
    )
