"""Interface of an experiment tracker, and what the trackers of a sweep and of a trial are given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    """Receives the figures of a trial."""

    def log(self, figures: Mapping[str, Any], *, epoch: int) -> None:
        """Write the figures of one epoch.

        Args:
            figures: Loss, learning rate, scores and times by name.
            epoch: Number of the epoch, from 1.
        """

    def summarise(self, figures: Mapping[str, Any]) -> None:
        """Write the final figures."""

    def close(self, *, failed: bool = False) -> None:
        """Write pending data; the trial has ended.

        Args:
            failed: The trial ended with an error or was stopped.
        """


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """Trackers of a sweep.

    Attributes:
        sweep: Name of the sweep.
        prefix: Begins the ID of every W&B run of the sweep; differs between two sweeps of one name.
        wandb: Mode of Weights & Biases: off, offline or online.
        wandb_project: Its project.
        mlflow: URL of an MLflow server; None for no MLflow.
        mlflow_experiment: Its experiment.
        mlflow_parent: ID of the sweep's MLflow run, below which the runs of its trials are nested.
    """

    sweep: str
    prefix: str
    wandb: str = "off"
    wandb_project: str = "whale_ray"
    mlflow: str | None = None
    mlflow_experiment: str = "whale_ray"
    mlflow_parent: str | None = None


@dataclass(frozen=True, kw_only=True)
class TrackedTrial:
    """A trial as its trackers see it.

    Attributes:
        trial: ID of the trial.
        settings: Settings of the trial: a mapping per section, and the seed.
        folder: Folder of its files.
        on_gpu: The trial trains on a GPU.
    """

    trial: str
    settings: Mapping[str, Any]
    folder: Path
    on_gpu: bool = False


@dataclass(frozen=True, kw_only=True)
class SweepOutcome:
    """Files of a sweep that has ended.

    Attributes:
        folder: The run folder.
        report: Path of report.html.
        bundle: Path of the best bundle; None if there is none.
        interrupted: The sweep was stopped before its last trial.
    """

    folder: Path
    report: Path
    bundle: Path | None
    interrupted: bool = False
