"""TensorBoard: event files in the folder of a trial."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any


class TensorBoardTracker:
    """Event files in a folder, one per process; a later file replaces the epochs that it repeats.

    Args:
        folder: Folder of the files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def log(self, figures: Mapping[str, Any], *, epoch: int) -> None:
        """Write the figures of one epoch.

        Args:
            figures: Value by name; values that are not numbers are left out.
            epoch: Number of the epoch, from 1.
        """
        from tensorboardX import SummaryWriter

        if self._writer is None:
            self._writer = SummaryWriter(str(self._folder), purge_step=epoch, write_to_disk=True)
        for name, value in figures.items():
            if name != "epoch" and isinstance(value, Real):
                self._writer.add_scalar(name, float(value), epoch)
        self._writer.flush()

    def summarise(self, figures: Mapping[str, Any]) -> None:
        """Do nothing: the last points of the curves show the result."""

    def close(self, *, failed: bool = False) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
