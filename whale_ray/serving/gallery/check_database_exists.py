"""Checks that a database of enrolments exists, without making or changing one."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import sqlalchemy as sql

from whale_ray.errors import StoreError
from whale_ray.serving.gallery.database import open_engine, translated_errors
from whale_ray.serving.gallery.tables import STATE


def check_database_exists(url: str) -> None:
    """Check that a service wrote the database.

    Raises:
        StoreError: If the database does not exist, has other content, or does not answer.
    """
    engine = open_engine(url)
    try:
        if engine.url.get_backend_name() == "sqlite":
            exists = _is_sqlite_store(Path(str(engine.url.database)))
        else:
            with translated_errors():
                exists = sql.inspect(engine).has_table(STATE.name)
    finally:
        engine.dispose()
    if not exists:
        raise StoreError(
            f"a database of enrolments must have been written by a service, but {engine.url} was not. Name the one "
            "that `store` of the service names"
        )


def _is_sqlite_store(path: Path) -> bool:
    """Return whether the file has the tables of a store; opened read-only, since a connection changes its mode."""
    if not path.is_file():
        raise StoreError(
            f"a database of enrolments must exist, but {path} is {'a folder' if path.is_dir() else 'not there'}. Name "
            "the one that `store` of the service names; a relative path counts from this folder"
        )
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            found = database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (STATE.name,)).fetchone()
    except sqlite3.OperationalError:  # it cannot be opened, which the connection reports
        return True
    except sqlite3.DatabaseError:
        return False
    return found is not None
