"""A round of training: resumed from its checkpoint; each epoch is scored, saved and reported."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from whale_ray.atomic_files import write_atomically
from whale_ray.sweep.run_folder.checkpoints import Checkpoint, CheckpointError

if TYPE_CHECKING:
    from torch import nn

    from whale_ray.data.batches import Batches
    from whale_ray.learning.training.loop import Epoch, Training
    from whale_ray.learning.training.worker_group import WorkerGroup
    from whale_ray.sweep.trials.trackers.tracker import Tracker

EpochRow = dict[str, Any]


def resume_training(
    begin: Callable[[], Training], checkpoint: Checkpoint, *, rebuild: Callable[[], None], workers: WorkerGroup
) -> tuple[Training, list[EpochRow], EpochRow]:
    """Return a training after the last epoch of its checkpoint.

    Args:
        begin: Returns the training before its first epoch.
        checkpoint: The checkpoint; it may not exist yet.
        rebuild: Called if the checkpoint is damaged, before `begin` is called again.
        workers: The workers that train together. The first one reads the checkpoint; the others get its state.

    Returns:
        The training; the rows of the epochs done; `note`, added to each further epoch if the checkpoint was damaged.
    """
    training = begin()
    epochs: list[EpochRow] = []
    note: EpochRow = {}
    try:
        epochs = checkpoint.load(training) if workers.is_first else []
    except CheckpointError as error:
        rebuild()
        training, note = begin(), {"note": f"{error}; it starts again"}
    if workers.size > 1:
        state, epochs = workers.from_first(lambda: (training.state_dict(), epochs))
        training.load_state_dict(state)
    return training, epochs, note


def train_round(
    training: Training,
    batches: Batches,
    *,
    epochs: list[EpochRow],
    offset: int,
    checkpoint: Checkpoint,
    objective: str,
    folder: Path,
    score: Callable[[int], EpochRow],
    on_epoch: Callable[[EpochRow], None],
) -> list[EpochRow]:
    """Train the remaining epochs of a round and return the rows of all epochs.

    Of several workers that train together, the first one scores, writes and reports.

    Args:
        training: The training.
        batches: Its batches.
        epochs: Rows of the epochs done, those of the round before included.
        offset: Number of epochs of the round before.
        checkpoint: Written after each epoch.
        objective: Name of the score that decides which epoch is the best.
        folder: The trial's folder; epochs.csv is written there.
        score: Returns the scores after an epoch, given its number.
        on_epoch: Called with the row of each new epoch.
    """
    from whale_ray.learning.training.loop import train_epochs

    rows = list(epochs)

    def finish(epoch: Epoch) -> EpochRow:
        number = offset + epoch.number
        spent = sum(row["seconds"] for row in rows)
        row = _epoch_row(epoch, number, spent=spent) | note_on_pairs(training.loss) | score(number)
        checkpoint.save(training, [*rows, row], objective=objective)
        write_atomically(folder / "epochs.csv", pd.DataFrame([*rows, row]).to_csv(index=False))
        on_epoch(row)
        return row

    for epoch in train_epochs(training, batches):
        rows.append(training.workers.from_first(partial(finish, epoch)))
    return rows


def note_on_pairs(loss: nn.Module) -> EpochRow:
    """Return a `note` if a pair loss had no positive pair since the last call; an empty row otherwise."""
    from whale_ray.learning.losses.loss_modules import MinedPairs

    for module in loss.modules():
        if isinstance(module, MinedPairs):
            positives, kept = module.take_counts()
            if not positives:
                return {
                    "note": "no batch of this epoch held two photographs of one individual, so that the pair loss had "
                    "no positive pair. Take train.sampler: pk with train.images_per_individual of 2 or more, or a "
                    "larger train.batch_size"
                }
            if not kept:
                return {
                    "note": f"the loss used none of the {positives} positive pairs of this epoch: all keep its margin, "
                    "or there are no negatives beside them"
                }
    return {}


def _epoch_row(epoch: Epoch, number: int, *, spent: float) -> EpochRow:
    return {
        "epoch": number,
        "loss": epoch.loss,
        "images_per_second": epoch.images / epoch.seconds,
        "seconds": epoch.seconds,
        "training_seconds": spent + epoch.seconds,
        "learning_rate": epoch.learning_rate,
    }


class TrainingCurve:
    """Epoch rows of a trial; the epochs of several folds are numbered consecutively.

    Args:
        folder: Folder of the trial, which gets epochs.csv.
        report: Called with the row of each new epoch.
        tracker: Gets the rows as well.

    Attributes:
        epochs: The rows so far.
    """

    def __init__(self, folder: Path, report: Callable[[EpochRow], object], tracker: Tracker) -> None:
        self._path, self._report, self._tracker = folder / "epochs.csv", report, tracker
        self.epochs: list[EpochRow] = []

    def last_note(self) -> EpochRow:
        """Return the `note` of the last epoch, if it has one."""
        return {name: value for row in self.epochs[-1:] for name, value in row.items() if name == "note" and value}

    def log_epoch(self, row: EpochRow) -> None:
        """Log and report an epoch that has just ended."""
        numbered = row | {"epoch": len(self.epochs) + row["epoch"]}
        self._tracker.log(row, epoch=numbered["epoch"])
        self._report(numbered)

    def add_training(self, epochs: list[EpochRow], fold: int | None = None) -> None:
        """Add the rows of a training that has ended.

        Args:
            epochs: Rows of the training, epochs from 1.
            fold: Fold of a k-fold split, whose epochs follow those of earlier folds; None replaces all rows.
        """
        if fold is None:
            self.epochs = epochs
            return
        done = len(self.epochs)
        self.epochs += [{**row, "fold": fold, "epoch": done + row["epoch"]} for row in epochs]
        if epochs:
            write_atomically(self._path, pd.DataFrame(self.epochs).to_csv(index=False))
