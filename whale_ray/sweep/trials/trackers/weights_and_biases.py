"""Weights & Biases, offline or online: a run for each trial, and one for the report and the bundle of the sweep."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whale_ray.errors import InputError
from whale_ray.sweep.trials.trackers.tracker import SweepOutcome, TrackedTrial, Tracking

_FLUSH_SECONDS = 1.0  # a killed worker loses at most this much of W&B's log


class WandbTracker:
    """W&B run of a trial. If the trial resumes, its run continues: online in place, offline in another segment.

    Args:
        tracking: Trackers of the sweep.
        trial: The trial.

    Raises:
        InputError: If W&B cannot write into the trial's folder.
    """

    def __init__(self, tracking: Tracking, trial: TrackedTrial) -> None:
        import wandb

        self._run = wandb.init(
            mode="online" if tracking.wandb == "online" else "offline",
            project=tracking.wandb_project,
            group=tracking.prefix,
            id=f"{tracking.prefix}-{trial.trial}",
            name=trial.trial,
            resume="allow",
            config=dict(trial.settings),
            dir=str(trial.folder),
            settings=wandb.Settings(
                silent=True,
                console="off",
                x_disable_stats=not trial.on_gpu,  # the panels of a GPU are worth its polling, those of a CPU are not
                x_transaction_log_flush_interval=_FLUSH_SECONDS,
            ),
        )
        if not (trial.folder / "wandb").is_dir():
            raise InputError(
                f"wandb must write below {trial.folder}, but made no folder there. Set tracking.wandb: off"
            )

    def log(self, figures: Mapping[str, Any], *, epoch: int) -> None:
        """Write the figures of one epoch.

        Args:
            figures: Value by name.
            epoch: Number of the epoch, from 1.
        """
        self._run.log(dict(figures), step=epoch, commit=True)

    def add_files(self, name: str, path: Path, *, kind: str, metadata: Mapping[str, Any]) -> None:
        """Log a file or a folder as an artifact.

        Args:
            name: Name of the artifact.
            path: The file or folder.
            kind: Type of the artifact.
            metadata: What W&B shows beside it.
        """
        import wandb

        artifact = wandb.Artifact(name, type=kind, metadata=dict(metadata))
        if path.is_dir():
            artifact.add_dir(str(path))
        else:
            artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def summarise(self, figures: Mapping[str, Any]) -> None:
        """Write the final figures."""
        self._run.summary.update(dict(figures))

    def close(self, *, failed: bool = False) -> None:
        """Write pending data and end the run."""
        self._run.finish()


def log_wandb_outcome(tracking: Tracking, outcome: SweepOutcome) -> None:
    """Log report and bundle of a sweep as artifacts, in a run named `outcome`; not of an interrupted sweep.

    Args:
        tracking: Trackers of the sweep.
        outcome: Files of the sweep.
    """
    if outcome.interrupted:
        return
    run = WandbTracker(tracking, TrackedTrial(trial="outcome", settings={}, folder=outcome.folder))
    run.add_files(f"{tracking.sweep}-report", outcome.report, kind="report", metadata={})
    if outcome.bundle is not None:
        metadata = {"id": outcome.bundle.name}
        run.add_files(f"{tracking.sweep}-bundle", outcome.bundle, kind="model", metadata=metadata)
    run.close()


def check_wandb(tracking: Tracking) -> None:
    """Raise InputError if W&B is `online` without an API key."""
    if tracking.wandb != "online":
        return
    import wandb

    if not (os.environ.get("WANDB_API_KEY") or wandb.api.api_key):
        raise InputError(
            "tracking.wandb: online needs a key, but there is none. "
            "Run `wandb login`, set WANDB_API_KEY, or set tracking.wandb: offline"
        )
