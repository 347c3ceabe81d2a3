"""Outcome of a sweep, as the driver returns it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SweepResult:
    """Outcome of a sweep.

    Attributes:
        folder: Run folder.
        table: Leaderboard, best first.
        bundle: Best bundle; None if no trial finished.
        report: Path of report.html.
        interrupted: The sweep was stopped before its last trial.
        url: URL of the run folder in a run store, of which `folder` is the mirror; None without one.
        unpublished: Files of `folder` that could not be uploaded.
        no_node: Why no node of the cluster is left that can run the trials; empty if the sweep did not end for that.
    """

    folder: Path
    table: pd.DataFrame
    bundle: Path | None
    report: Path
    interrupted: bool
    url: str | None = None
    unpublished: tuple[str, ...] = ()
    no_node: str = ""

    @property
    def exit_code(self) -> int:
        """0 all trials ended as meant; 3 some failed; 1 no bundle, or files are not uploaded; 130 interrupted.

        4 if no node is left that can run the trials.
        """
        if self.no_node:
            return 4
        if self.interrupted:
            return 130
        if self.bundle is None or self.unpublished:
            return 1
        return 3 if (self.table["status"] == "failed").any() else 0
