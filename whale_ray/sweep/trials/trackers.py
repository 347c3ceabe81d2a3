"""Where a trial's curves are also written: files that TensorBoard opens, and Weights & Biases, offline or online.

Knows tensorboardX and wandb alone; wandb is imported only where it is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from numbers import Real
from pathlib import Path
from typing import Any, Protocol

from whale_ray.errors import InputError

_FLUSH_SECONDS = 1.0  # what a killed worker had logged for longer than this is in W&B's file


class Tracker(Protocol):
    """What a trial tells of itself."""

    def log(self, figures: Mapping[str, Any], *, epoch: int) -> None:
        """Writes the figures of one epoch."""

    def summarise(self, figures: Mapping[str, Any]) -> None:
        """Writes the final figures."""

    def close(self) -> None:
        """Writes what is left: the trial is over, however it ended."""


class _All:
    """Several trackers as one."""

    def __init__(self, trackers: Iterable[Tracker]) -> None:
        self._trackers = tuple(trackers)

    def log(self, figures: Mapping[str, Any], *, epoch: int) -> None:
        """Writes the figures of one epoch."""
        for tracker in self._trackers:
            tracker.log(figures, epoch=epoch)

    def summarise(self, figures: Mapping[str, Any]) -> None:
        """Writes the final figures."""
        for tracker in self._trackers:
            tracker.summarise(figures)

    def close(self) -> None:
        """Writes what is left."""
        for tracker in self._trackers:
            tracker.close()


class _TensorBoard:
    """Curves in the trial's own folder, one file a sitting; a later sitting takes the place of what it repeats."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def log(self, figures: Mapping[str, Any], *, epoch: int) -> None:
        """Writes the figures of one epoch."""
        from tensorboardX import SummaryWriter

        if self._writer is None:
            self._writer = SummaryWriter(str(self._folder), purge_step=epoch, write_to_disk=True)
        for name, value in figures.items():
            if name != "epoch" and isinstance(value, Real):
                self._writer.add_scalar(name, float(value), epoch)
        self._writer.flush()

    def summarise(self, figures: Mapping[str, Any]) -> None:
        """Does nothing: the curves' last points say it."""

    def close(self) -> None:
        """Writes what is left."""
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
        """Writes the figures of one epoch."""
        self._run.log(dict(figures), step=epoch, commit=True)

    def add(self, artifact: Any) -> None:
        """Gives the run an artifact."""
        self._run.log_artifact(artifact)

    def summarise(self, figures: Mapping[str, Any]) -> None:
        """Writes the final figures."""
        self._run.summary.update(dict(figures))

    def close(self) -> None:
        """Writes what is left."""
        self._run.finish()


@contextmanager
def open_tracker(
    mode: str, *, project: str, sweep: str, trial: str, settings: Mapping[str, Any], folder: Path
) -> Iterator[Tracker]:
    """Holds a trial's tracker: TensorBoard's files in `folder`; W&B `off`, `offline` below `folder`, or `online`.

    The same trial opened again is the same W&B run: online it goes on, offline in a further segment.
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
        with suppress(Exception):  # a trial that is stopped must not be one that failed: W&B may be gone before it
            tracker.close()
        raise
    tracker.close()


def log_outcome(mode: str, *, project: str, sweep: str, folder: Path, report: Path, bundle: Path | None) -> None:
    """Gives W&B the report and the bundle of a sweep, as artifacts of a run of the sweep's own; `off` does nothing."""
    if mode == "off":
        return
    import wandb

    outcome = _WeightsAndBiases(mode, project=project, sweep=sweep, trial="outcome", settings={}, folder=folder)
    page = wandb.Artifact(f"{sweep}-report", type="report")
    page.add_file(str(report))
    outcome.add(page)
    if bundle is not None:
        recogniser = wandb.Artifact(f"{sweep}-bundle", type="bundle", metadata={"id": bundle.name})
        recogniser.add_dir(str(bundle))
        outcome.add(recogniser)
    outcome.close()


def check_tracking(mode: str) -> None:
    """Raises InputError where `online` is asked for and there is no key to sign in with."""
    if mode != "online":
        return
    import wandb

    if not (os.environ.get("WANDB_API_KEY") or wandb.api.api_key):
        raise InputError(
            "tracking.wandb: online needs a key, but there is none. "
            "Type `wandb login`, set WANDB_API_KEY, or say tracking.wandb: offline"
        )
