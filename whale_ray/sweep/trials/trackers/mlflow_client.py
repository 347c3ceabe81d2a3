"""Client of an MLflow server: short timeouts, experiments, runs that continue, metrics and parameters."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from numbers import Real
from typing import Any

_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
# A silent server must not hold up a trial: at most 2 attempts of 5 s. MLflow's defaults are 8 attempts of 120 s.
_CLIENT_SETTINGS = {
    _TIMEOUT: "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_UPLOAD_SECONDS = "300"  # a server answers only when it has written the whole file
_MOST_PARAMS = 100  # of one call, a limit of the server
_LONGEST_PARAM = 6000


def is_mlflow_installed() -> bool:
    """Return whether MLflow's client is installed."""
    return find_spec("mlflow") is not None


def connect(url: str | None) -> Any:
    """Return an MlflowClient with short timeouts; environment variables of MLflow win over them."""
    for name, value in _CLIENT_SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=url)


@contextmanager
def upload_timeout() -> Iterator[None]:
    """Give calls in the block the time that a large file takes."""
    before = os.environ.get(_TIMEOUT, "")
    os.environ[_TIMEOUT] = _UPLOAD_SECONDS
    try:
        yield
    finally:
        os.environ[_TIMEOUT] = before


def mlflow_errors() -> tuple[type[Exception], ...]:
    """Return the errors of a server that refuses a call or does not answer."""
    from mlflow.exceptions import MlflowException

    return (MlflowException, OSError)  # OSError: also those of requests


def find_or_create_experiment(client: Any, name: str) -> str:
    """Return the ID of an experiment; another sweep may create it at the same moment.

    Args:
        client: The client.
        name: Name of the experiment.
    """
    from mlflow.exceptions import MlflowException

    if found := client.get_experiment_by_name(name):
        return str(found.experiment_id)
    with suppress(MlflowException):
        return str(client.create_experiment(name))
    if found := client.get_experiment_by_name(name):
        return str(found.experiment_id)
    raise MlflowException(f"the experiment {name} cannot be created")


def continue_run(client: Any, run: str | None) -> bool:
    """Set a run to running again and return True; return False if the server does not have it.

    Args:
        client: The client.
        run: ID of the run; None if it was never created.
    """
    from mlflow.exceptions import MlflowException

    if run is None:
        return False
    try:
        if client.get_run(run).info.lifecycle_stage == "deleted":
            return False
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
    client.update_run(run, status="RUNNING")
    return True


def log_params(client: Any, run: str, settings: Mapping[str, Any]) -> None:
    """Log settings as parameters of a run under dotted keys.

    Args:
        client: The client.
        run: ID of the run.
        settings: Nested mappings of values.
    """
    from mlflow.entities import Param

    rows = [Param(name, str(value)[:_LONGEST_PARAM]) for name, value in _flat(settings).items()]
    for first in range(0, len(rows), _MOST_PARAMS):
        client.log_batch(run, params=rows[first : first + _MOST_PARAMS])


def log_metrics(client: Any, run: str, figures: Mapping[str, Any], *, step: int) -> None:
    """Log the numbers among figures as metrics of a run; MLflow allows no @ in a name: recall_at_1.

    Args:
        client: The client.
        run: ID of the run.
        figures: Value by name.
        step: Number of the epoch.
    """
    from mlflow.entities import Metric

    now = int(1000 * time.time())
    numbers = {key: value for key, value in figures.items() if key != "epoch" and isinstance(value, Real)}
    rows = [Metric(name.replace("@", "_at_"), float(value), now, step) for name, value in numbers.items()]
    client.log_batch(run, metrics=rows)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
