"""Reports of a trial's worker to the driver: their keys and kinds.

Ray Tune passes them on. The report of an epoch has its figures (`epoch`, `loss`, scores), the last one of a trial has
`done`, and `no_room` with the reason if the trial cannot write its files, otherwise "". Both may have `note`, and
`elsewhere` if the trial publishes its files from another node.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

NODE = "node"
"""Key of every report: ID of the Ray node."""
HEARTBEAT = "heartbeat"
"""Key of a report that only shows that the trial is alive: its process (`pid`) and Ray node (`node`)."""
WORKERS = "workers"
"""Key of a report on the workers of a trial: name of their `channel`, and the placement group of their `places`."""
UNFIT_NODE = "unfit_node"
"""Key of the report of a trial that cannot train on its node: the ID of the node; `note` says why."""


class ReportKind(Enum):
    """Kind of a report."""

    EPOCH = "epoch"
    END = "end"
    HEARTBEAT = HEARTBEAT
    WORKERS = WORKERS
    UNFIT_NODE = UNFIT_NODE


def kind_of(report: Mapping[str, Any]) -> ReportKind:
    """Return the kind of a report.

    Args:
        report: What the worker has reported, also with what Tune has added, and with keys such as `heartbeat/pid`:
            Tune flattens what it gives to a scheduler.
    """
    keys = {name.partition("/")[0] for name in report}
    for kind in (ReportKind.HEARTBEAT, ReportKind.WORKERS, ReportKind.UNFIT_NODE):
        if kind.value in keys:
            return kind
    # Tune sets `done` also at an epoch with which early stopping ends a trial.
    return ReportKind.END if report.get("done") and "no_room" in report else ReportKind.EPOCH
