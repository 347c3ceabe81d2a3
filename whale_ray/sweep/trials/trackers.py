"""Experiment trackers: event files for TensorBoard, and Weights & Biases, offline or online."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from numbers import Real
from pathlib import Path
from typing import Any, Protocol

from whale_ray.errors import InputError

_FLUSH_SECONDS = 1.0  # a killed worker loses at most this much of W&B's log


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

    def close(self) -> None:
        """Write pending data; the trial has ended, with or without an error."""


class _All:
    """Passes figures on to several trackers."""

    def __init__(self, trackers: Iterable[Tracker]) -> None:
        self._trackers = tuple(trackers)

    def log(self, figures: Mapping[str, Any], *, epoch: int) -> None:
        """Write the figures of one epoch."""
        for tracker in self._trackers:
            tracker.log(figures, epoch=epoch)

    def summarise(self, figures: Mapping[str, Any]) -> None:
        """Write the final figures."""
        for tracker in self._trackers:
            tracker.summarise(figures)

    def close(self) -> None:
        """Write pending data."""
        for tracker in self._trackers:
            tracker.close()


class _TensorBoard:
    """TensorBoard files in the trial's folder, one per process; a later file replaces the epochs that it repeats."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def log(self, figures: Mapping[str, Any], *, epoch: int) -> None:
        """Write the figures of one epoch."""
        from tensorboardX import SummaryWriter

        if self._writer is None:
            self._writer = SummaryWriter(str(self._folder), purge_step=epoch, write_to_disk=True)
        for name, value in figures.items():
            if name != "epoch" and isinstance(value, Real):
                self._writer.add_scalar(name, float(value), epoch)
        self._writer.flush()

    def summarise(self, figures: Mapping[str, Any]) -> None:
        """Do nothing: the last points of the curves show the result."""

    def close(self) -> None:
        """Write pending data."""
        if self._writer is not None:
            self._writer.close()


class _WeightsAndBiases:
    def __init__(self, mode: str, *, project: str, sweep: str, trial: str, settings: Mapping[str, Any], folder: Path):
        import wandb

        self._folder = folder / "wandb"
        self._run = wandb.init(
            mode="online" if mode == "online" else "offline",
            project=project,
            group=sweep,
            id=f"{sweep}-{trial}",
            name=trial,
            resume="allow",
            config=dict(settings),
            dir=str(folder),
            settings=wandb.Settings(
                silent=True, console="off", x_disable_stats=True, x_transaction_log_flush_interval=_FLUSH_SECONDS
            ),
        )
        if not self._folder.is_dir():
            raise InputError(f"wandb must write below {folder}, but made no folder there. Set tracking.wandb: off")

    def log(self, figures: Mapping[str, Any], *, epoch: int) -> None:
        """Write the figures of one epoch."""
        self._run.log(dict(figures), step=epoch, commit=True)

    def add(self, artifact: Any) -> None:
        """Log an artifact."""
        self._run.log_artifact(artifact)

    def summarise(self, figures: Mapping[str, Any]) -> None:
        """Write the final figures."""
        self._run.summary.update(dict(figures))

    def close(self) -> None:
        """Write pending data."""
        self._run.finish()


@contextmanager
def open_tracker(
    mode: str, *, project: str, sweep: str, trial: str, settings: Mapping[str, Any], folder: Path
) -> Iterator[Tracker]:
    """Yield the tracker of a trial: TensorBoard and, unless `off`, Weights & Biases.

    If the trial resumes, its W&B run continues: online in place, offline in another segment.

    Args:
        mode: Mode of W&B: off, offline or online.
        project: W&B project.
        sweep: Name of the sweep; the W&B group.
        trial: ID of the trial.
        settings: Settings of the trial.
        folder: Folder of the files.
    """
    trackers: list[Tracker] = [_TensorBoard(folder)]
    if mode != "off":
        trackers.append(
            _WeightsAndBiases(mode, project=project, sweep=sweep, trial=trial, settings=settings, folder=folder)
        )
    tracker = _All(trackers)
    try:
        yield tracker
    except BaseException:
        with suppress(Exception):  # a stopped trial must not count as failed if W&B ended first
            tracker.close()
        raise
    tracker.close()


def log_outcome(mode: str, *, project: str, sweep: str, folder: Path, report: Path, bundle: Path | None) -> None:
    """Log report and bundle of a sweep as W&B artifacts, in a run named `outcome`.

    Args:
        mode: Mode of W&B: off (does nothing), offline or online.
        project: W&B project.
        sweep: Name of the sweep.
        folder: Folder of the files.
        report: Path of the report.
        bundle: Path of the bundle; None if there is none.
    """
    if mode == "off":
        return
    import wandb

    outcome = _WeightsAndBiases(mode, project=project, sweep=sweep, trial="outcome", settings={}, folder=folder)
    page = wandb.Artifact(f"{sweep}-report", type="report")
    page.add_file(str(report))
    outcome.add(page)
    if bundle is not None:
        recognizer = wandb.Artifact(f"{sweep}-bundle", type="bundle", metadata={"id": bundle.name})
        recognizer.add_dir(str(bundle))
        outcome.add(recognizer)
    outcome.close()


def check_tracking(mode: str) -> None:
    """Raise InputError if W&B is `online` without an API key."""
    if mode != "online":
        return
    import wandb

    if not (os.environ.get("WANDB_API_KEY") or wandb.api.api_key):
        raise InputError(
            "tracking.wandb: online needs a key, but there is none. "
            "Run `wandb login`, set WANDB_API_KEY, or set tracking.wandb: offline"
        )
