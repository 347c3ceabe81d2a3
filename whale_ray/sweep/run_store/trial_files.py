"""Files of one trial on a node whose disk the driver does not see: fetched before it trains, published beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow

from whale_ray.inference.bundle_transfer.object_store import ObjectStore
from whale_ray.sweep.run_store.mirror import RunMirror
from whale_ray.sweep.run_store.publisher import Publisher
from whale_ray.sweep.run_store.remote_run import RemoteRun, mirror_folder

WAIT_SECONDS = 600.0
_EVIDENCE = "local-"
Report = Callable[[dict[str, Any]], object]


@contextmanager
def published_trial(
    remote: RemoteRun | None, folder: Path, trial: str, report: Report
) -> Iterator[tuple[Path, Report]]:
    """Yield the run folder on this node and the function to report with, and publish the trial while the block lasts.

    All files are published before the report that the trial has ended. That report has `elsewhere`, and `no_room` with
    the reason if files could not be published.

    Args:
        remote: The run folder in a run store; None if `folder` is the run folder.
        folder: The run folder on the driver's node.
        trial: ID of the trial.
        report: Called with the figures of an epoch.
    """
    if remote is None or remote.is_shared(folder):
        yield folder, report
        return
    here, prefix = mirror_folder(remote.url), f"trials/{trial}/"
    mirror = RunMirror(ObjectStore(remote.url), here, below=prefix)
    _fetch(mirror, prefix)
    publisher = Publisher(mirror, prefix=prefix, say=print)
    pending: list[str] | None = None

    def report_here(figures: dict[str, Any]) -> object:
        nonlocal pending
        figures = figures | {"elsewhere": True}
        if figures.get("done"):
            pending = publisher.finish()
            if pending:
                figures["no_room"] = f"{remote.url} takes no files; {len(pending)} files of the trial wait in {here}"
        return report(figures)

    try:
        yield here, report_here
    finally:
        if pending is None:  # early stopping or the user has ended the trial
            publisher.finish()


def _fetch(mirror: RunMirror, prefix: str) -> None:
    """Download the trial, once the driver has published its settings, and what its scoring needs."""
    begun = time.monotonic()
    while True:
        try:
            mirror.pull(prefix)
            if (mirror.folder / prefix / "settings.json").exists():
                RunMirror(mirror.store, mirror.folder).pull(recursive=False, beginning=_EVIDENCE)
                return
            reason = f"{mirror.store.url}/{prefix}settings.json is not published"
        except (OSError, pyarrow.ArrowException) as error:
            reason = str(error)
            mirror.store.reconnect()
        if time.monotonic() - begun > WAIT_SECONDS:
            raise OSError(f"a trial starts from its settings, but {reason}")
        time.sleep(1.0)
