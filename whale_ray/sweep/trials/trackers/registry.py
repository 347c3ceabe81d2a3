"""Table of the experiment trackers, and the calls that reach all trackers of a sweep."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whale_ray.sweep.trials.trackers.mlflow_runs import MlflowTracker, begin_mlflow, check_mlflow, end_mlflow
from whale_ray.sweep.trials.trackers.tensorboard import TensorBoardTracker
from whale_ray.sweep.trials.trackers.tracker import SweepOutcome, TrackedTrial, Tracker, Tracking
from whale_ray.sweep.trials.trackers.weights_and_biases import WandbTracker, check_wandb, log_wandb_outcome

_Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class TrackerEntry:
    """One kind of tracker.

    Attributes:
        is_on: Returns whether the sweep uses it.
        build: Returns the tracker of a trial.
        check: Raises InputError if it cannot work; called before anything starts.
        begin: Returns the tracking to use, after the first call to a server; called before the first trial.
        end: Logs report and bundle of a sweep.
    """

    is_on: Callable[[Tracking], bool]
    build: Callable[[Tracking, TrackedTrial], Tracker]
    check: Callable[[Tracking], None] = lambda tracking: None
    begin: Callable[[Tracking, Path, _Say], Tracking] = lambda tracking, folder, say: tracking
    end: Callable[[Tracking, SweepOutcome, _Say], None] = lambda tracking, outcome, say: None


TRACKERS: dict[str, TrackerEntry] = {
    "tensorboard": TrackerEntry(
        is_on=lambda tracking: True,
        build=lambda tracking, trial: TensorBoardTracker(trial.folder),
    ),
    "wandb": TrackerEntry(
        is_on=lambda tracking: tracking.wandb != "off",
        build=WandbTracker,
        check=check_wandb,
        end=lambda tracking, outcome, say: log_wandb_outcome(tracking, outcome),
    ),
    "mlflow": TrackerEntry(
        is_on=lambda tracking: tracking.mlflow is not None,
        build=MlflowTracker,
        check=check_mlflow,
        begin=begin_mlflow,
        end=end_mlflow,
    ),
}


class _AllTrackers:
    """Passes figures on to several trackers."""

    def __init__(self, tracking: Tracking, trial: TrackedTrial) -> None:
        self._trackers = [entry.build(tracking, trial) for entry in _used(tracking)]

    def log(self, figures: Mapping[str, Any], *, epoch: int) -> None:
        """Write the figures of one epoch."""
        for tracker in self._trackers:
            tracker.log(figures, epoch=epoch)

    def summarise(self, figures: Mapping[str, Any]) -> None:
        """Write the final figures."""
        for tracker in self._trackers:
            tracker.summarise(figures)

    def close(self, *, failed: bool = False) -> None:
        """Write pending data."""
        for tracker in self._trackers:
            tracker.close(failed=failed)


def _used(tracking: Tracking) -> list[TrackerEntry]:
    return [entry for entry in TRACKERS.values() if entry.is_on(tracking)]


@contextmanager
def open_trackers(tracking: Tracking, trial: TrackedTrial) -> Iterator[Tracker]:
    """Yield one tracker that passes the figures of a trial on to all trackers of the sweep.

    Args:
        tracking: Trackers of the sweep.
        trial: The trial.
    """
    tracker = _AllTrackers(tracking, trial)
    try:
        yield tracker
    except BaseException:
        with suppress(Exception):  # a stopped trial must not count as failed if W&B ended first
            tracker.close(failed=True)
        raise
    tracker.close()


def begin_trackers(tracking: Tracking, folder: Path, *, say: _Say) -> Tracking:
    """Return the tracking of a sweep whose first trial is about to start; without a tracker that does not answer.

    Args:
        tracking: Trackers of the sweep.
        folder: The run folder.
        say: Prints a line for the user.
    """
    for entry in _used(tracking):
        tracking = entry.begin(tracking, folder, say)
    return tracking


def end_trackers(tracking: Tracking, outcome: SweepOutcome, *, say: _Say) -> None:
    """Log report and bundle of a sweep in all its trackers.

    Args:
        tracking: Trackers of the sweep.
        outcome: Files of the sweep.
        say: Prints a line for the user.
    """
    for entry in _used(tracking):
        entry.end(tracking, outcome, say)


def check_trackers(tracking: Tracking) -> None:
    """Raise InputError if a tracker of the sweep cannot work."""
    for entry in _used(tracking):
        entry.check(tracking)
