"""Databases of the enrolment tests: an SQLite file and a real PostgreSQL from a wheel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sql
from server_processes import postgresql_server


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL that is started for this run of the tests."""
    with ExitStack() as stack:
        try:
            address = stack.enter_context(postgresql_server())
        except Exception as error:
            pytest.skip(f"no PostgreSQL can be started here: {error}")
        yield address


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
