"""Database of the Optuna study: study.db in the run folder, or a shared database at `search.storage`."""

from __future__ import annotations

import functools
import sqlite3
import time
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from whale_ray.errors import InputError, hide_passwords

_TIMEOUT_SECONDS = 30


def share_distributions() -> None:
    """Let the trials of a study have equal distributions in common.

    Optuna's storage parses the distribution of each parameter of each trial anew and keeps it: for the listed values of
    an axis, memory grows with their number times the number of trials.
    """
    parse = optuna.distributions.json_to_distribution
    if not hasattr(parse, "cache_info"):
        optuna.distributions.json_to_distribution = functools.lru_cache(maxsize=1024)(parse)


def check_storage(url: str | None) -> None:
    """Raise InputError if the database at `search.storage` cannot be used; None is study.db of the run folder."""
    if url is not None:
        open_shared_storage(url)


def open_shared_storage(url: str) -> optuna.storages.BaseStorage:
    """Return the storage in a database, whose tables are created if needed.

    Args:
        url: `sqlite:///PATH` or `postgresql://USER@HOST/NAME`.

    Raises:
        InputError: If the database does not answer, refuses the user, or its driver is not installed. The message
            hides the password.
    """
    is_postgresql = url.startswith("postgresql")
    address = url.replace("postgresql://", "postgresql+psycopg://", 1)
    options: dict[str, Any] = {"connect_timeout" if is_postgresql else "timeout": _TIMEOUT_SECONDS}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # No pool: between two trials a connection would idle for hours.
            return optuna.storages.RDBStorage(address, engine_kwargs={"poolclass": NullPool, "connect_args": options})
    except ImportError as error:
        raise InputError(
            f"search.storage: PostgreSQL needs psycopg, which is missing ({error}). pip install 'whale-ray[postgresql]'"
        ) from None
    except (SQLAlchemyError, RuntimeError) as error:  # RuntimeError: tables of another version of Optuna
        reason = hide_passwords(str(error).strip().split("\n")[0])
        raise InputError(
            f"search.storage must be a database that can be used, but {hide_passwords(url)} cannot: {reason}. "
            "Check the URL and the server, or remove search.storage for study.db in the run folder"
        ) from None


def move_damaged(path: Path) -> Path | None:
    """Move a study file that SQLite cannot read aside and return its new path; None if it is whole or missing.

    Nothing is lost: the study is made again from the trial folders.
    """
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(path)) as connection:
            whole = connection.execute("PRAGMA quick_check").fetchone() == ("ok",)
    except sqlite3.DatabaseError:
        whole = False
    if whole:
        return None
    aside = path.with_suffix(f".damaged.{time.strftime('%Y%m%d-%H%M%S')}")
    path.replace(aside)
    return aside
