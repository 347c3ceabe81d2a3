"""MLflow: a run for each trial, nested under the run of its sweep, on a server.

The IDs of the runs are kept in mlflow.json of the run folder and of each trial, so that a resume continues them. A
server that does not answer costs one warning; the sweep goes on without it.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from whale_ray.atomic_files import write_atomically
from whale_ray.errors import InputError
from whale_ray.sweep.run_folder.optional_json import read_optional_json
from whale_ray.sweep.trials.trackers.mlflow_client import (
    connect,
    continue_run,
    find_or_create_experiment,
    is_mlflow_installed,
    log_metrics,
    log_params,
    mlflow_errors,
    upload_timeout,
)
from whale_ray.sweep.trials.trackers.tracker import SweepOutcome, TrackedTrial, Tracking

_log = logging.getLogger(__name__)
_NOTES = "mlflow.json"
_PARENT_TAG = "mlflow.parentRunId"
_FAILED_CONNECTION = re.compile(r"Caused by (\w+)")  # of urllib3, at the end of a long text
_LONGEST = 200


class MlflowTracker:
    """MLflow run of a trial; a resumed trial continues its run. The first call that fails ends the tracking.

    Args:
        tracking: Trackers of the sweep.
        trial: The trial.
    """

    def __init__(self, tracking: Tracking, trial: TrackedTrial) -> None:
        self._tracking, self._trial = tracking, trial
        self._run: str | None = None
        self._client: Any = None
        with self._giving_up():
            self._client = connect(tracking.mlflow)
            self._run = self._open(self._client)

    def log(self, figures: Mapping[str, Any], *, epoch: int) -> None:
        """Write the figures of one epoch.

        Args:
            figures: Value by name; values that are not numbers are left out.
            epoch: Number of the epoch, from 1.
        """
        self._send(lambda client, run: log_metrics(client, run, figures, step=epoch))

    def summarise(self, figures: Mapping[str, Any]) -> None:
        """Write the final figures: numbers as metrics, texts as tags."""
        texts = {name: value for name, value in figures.items() if isinstance(value, str) and value}

        def send(client: Any, run: str) -> None:
            log_metrics(client, run, figures, step=int(figures.get("epochs") or 0))
            for name, value in texts.items():
                client.set_tag(run, name, value)

        self._send(send)

    def close(self, *, failed: bool = False) -> None:
        """End the run.

        Args:
            failed: The trial ended with an error or was stopped; its run counts as failed until it is resumed.
        """
        self._send(lambda client, run: client.set_terminated(run, "FAILED" if failed else "FINISHED"))

    def _open(self, client: Any) -> str:
        notes = read_optional_json(self._trial.folder / _NOTES)
        if notes.get("parent") == self._tracking.mlflow_parent and continue_run(client, notes.get("run")):
            return str(notes["run"])
        parent = client.get_run(str(self._tracking.mlflow_parent))
        tags = {_PARENT_TAG: parent.info.run_id, "sweep": self._tracking.sweep, "trial": self._trial.trial}
        run = client.create_run(parent.info.experiment_id, run_name=self._trial.trial, tags=tags).info.run_id
        log_params(client, run, self._trial.settings)
        _write_notes(self._trial.folder, {"run": run, "parent": parent.info.run_id})
        return str(run)

    def _send(self, call: Callable[[Any, str], object]) -> None:
        if self._client is not None and self._run is not None:
            with self._giving_up():
                call(self._client, self._run)

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except mlflow_errors() as error:
            self._run = None
            _log.warning("MLflow gets no more figures of trial %s: %s", self._trial.trial, _reason(error))
            notes = read_optional_json(self._trial.folder / _NOTES)
            _write_notes(self._trial.folder, {**notes, "incomplete": _reason(error)})


def begin_mlflow(tracking: Tracking, folder: Path, say: Callable[[str], None]) -> Tracking:
    """Return the tracking with the sweep's MLflow run: that of the run folder, or a new one.

    Args:
        tracking: Trackers of the sweep.
        folder: The run folder.
        say: Prints a line for the user.

    Returns:
        The tracking with `mlflow_parent`; without MLflow, after a warning, if the server does not answer.
    """
    try:
        client = connect(tracking.mlflow)
        notes = read_optional_json(folder / _NOTES)
        if notes.get("server") == tracking.mlflow and continue_run(client, notes.get("run")):
            return replace(tracking, mlflow_parent=str(notes["run"]))
        tags = {"sweep": tracking.sweep}
        run = client.create_run(
            find_or_create_experiment(client, tracking.mlflow_experiment), run_name=tracking.prefix, tags=tags
        )
        client.log_artifact(run.info.run_id, str(folder / "sweep.yaml"))
        _write_notes(folder, {"server": tracking.mlflow, "run": run.info.run_id})
        return replace(tracking, mlflow_parent=run.info.run_id)
    except mlflow_errors() as error:
        say(
            f"warning: the sweep goes on without MLflow: tracking.mlflow must name a server that answers, but "
            f"{tracking.mlflow}: {_reason(error)}"
        )
        return replace(tracking, mlflow=None)


def end_mlflow(tracking: Tracking, outcome: SweepOutcome, say: Callable[[str], None]) -> None:
    """Log report and bundle as artifacts of the sweep's MLflow run, and end it; warn if trials are incomplete there.

    Args:
        tracking: Trackers of the sweep.
        outcome: Files of the sweep.
        say: Prints a line for the user.
    """
    run = str(tracking.mlflow_parent)
    try:
        client = connect(tracking.mlflow)
        client.set_terminated(run, "KILLED" if outcome.interrupted else "FINISHED")
        with upload_timeout():
            if not outcome.interrupted:
                client.log_artifact(run, str(outcome.report))
            if outcome.bundle is not None and not outcome.interrupted:
                client.log_artifacts(run, str(outcome.bundle), artifact_path=f"bundle/{outcome.bundle.name}")
    except mlflow_errors() as error:
        say(f"warning: MLflow has not taken report and bundle: {_reason(error)}")
    notes = {path.parent.name: read_optional_json(path) for path in outcome.folder.glob(f"trials/*/{_NOTES}")}
    if incomplete := sorted(trial for trial, note in notes.items() if "incomplete" in note):
        say(f"warning: MLflow lacks figures of trials, since it did not answer: {', '.join(incomplete)}")


def check_mlflow(tracking: Tracking) -> None:
    """Raise InputError if MLflow's client is not installed."""
    if not is_mlflow_installed():
        raise InputError(
            f"tracking.mlflow: {tracking.mlflow} needs MLflow's client, which is not installed. "
            "Run `pip install 'whale-ray[mlflow]'`, or remove tracking.mlflow"
        )


def _write_notes(folder: Path, notes: Mapping[str, Any]) -> None:
    write_atomically(folder / _NOTES, json.dumps(dict(notes), indent=1))


def _reason(error: Exception) -> str:
    """Return the kind of a failed connection, else the first line of the message."""
    text = str(error).strip()
    failed = _FAILED_CONNECTION.search(text)
    return failed[1] if failed else text.split("\n")[0][:_LONGEST]
