"""Downloads a trial's files to a node without a shared disk, and uploads what changes during training."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow

from whale_ray.atomic_files import write_atomically
from whale_ray.errors import first_line
from whale_ray.inference.bundle_transfer.object_store import ObjectStore
from whale_ray.sweep.run_store.driver_run_folder import RemoteRun
from whale_ray.sweep.run_store.mirror import RunMirror
from whale_ray.sweep.run_store.node_cache import drop_other_run, drop_stale_files
from whale_ray.sweep.run_store.publisher import Publisher
from whale_ray.sweep.run_store.run_download import mirror_folder
from whale_ray.sweep.run_store.trial_claim import CLAIM, TrialClaim
from whale_ray.sweep.trial_reports import HEARTBEAT

WAIT_SECONDS = 600.0
_EVIDENCE = "local-"
Report = Callable[[dict[str, Any]], object]


class UnreachableStoreError(Exception):
    """A trial could not begin on a node, since the store did not answer or has no settings of the trial."""


class UnpublishedTrialError(Exception):
    """A trial has ended, but its files could not be published."""


@dataclass(frozen=True)
class TrialPlace:
    """Run folder of a trial on its node, and the functions that report to the driver.

    Attributes:
        folder: The run folder on this node.
        report: Called with the figures of an epoch, and at the end with `done`.
        on_beat: Called with process and node of the trial while it is alive.
        remote: The run folder in a run store, with the trial's claim; None if there is none.
    """

    folder: Path
    report: Report
    on_beat: Report
    remote: RemoteRun | None


@contextmanager
def published_trial(
    remote: RemoteRun | None, folder: Path, trial: str, report: Report, *, trains: bool = True
) -> Iterator[TrialPlace]:
    """Yield the place of a trial on this node, and publish the trial while the block lasts.

    Each epoch is published while the next one trains. All files are published before the report that the trial has
    ended, and, if the process is ended by SIGTERM, before it exits. Reports have `elsewhere`; the last one has
    `no_room` with the reason if files could not be published. If the store takes no files at the end of a trial, it is
    asked again for 10 minutes; if the trial is stopped, for 20 s. Files that wait then count if the trial starts on
    this node again before another worker has had it: the claim is kept.

    Args:
        remote: The run folder in a run store; None if `folder` is the run folder.
        folder: The run folder on the driver's node, or on that of the trial's first process.
        trial: ID of the trial.
        report: Called with the figures of an epoch or with `heartbeat`.
        trains: False if other processes train and publish; this one publishes at the end only.

    Raises:
        UnreachableStoreError: If the trial cannot begin, after 10 minutes.
        SystemExit: From a report, if another worker has taken over the trial.
        UnpublishedTrialError: If files could not be published, and no report of the end has said so.
    """
    prefix = f"trials/{trial}/"
    if remote is None:
        yield TrialPlace(folder, report, _ignore, None)
        return
    store = ObjectStore(remote.url)
    claim = TrialClaim(store, prefix, token=remote.claim, previous=remote.earlier_claim)
    if remote.is_shared(remote.folder):
        with contextlib.suppress(OSError, pyarrow.ArrowException):  # the driver's publisher reports it
            claim.take()
        yield TrialPlace(remote.folder, report, _ignore, _passed_on(remote, claim))
        _release(claim)
        return
    files = _TrialFiles(store, remote, prefix, claim, report, trains=trains)
    atexit.register(files.finish)
    try:
        yield TrialPlace(files.folder, files.report, files.report_heartbeat, _passed_on(remote, claim))
        files.finish_unreported()
    finally:
        atexit.unregister(files.finish)
        if not files.finish():
            _release(claim)


class _TrialFiles:
    """The files of a trial on this node, published while it trains."""

    def __init__(
        self, store: ObjectStore, remote: RemoteRun, prefix: str, claim: TrialClaim, report: Report, *, trains: bool
    ) -> None:
        self._store = store  # that of the claim, so that both are connected again
        self.folder = mirror_folder(remote.url)
        self._remote, self._prefix, self._claim, self._report = remote, prefix, claim, report
        _fetch(store, self.folder, prefix, claim)
        self._publisher = self._open_publisher() if trains else None
        self._pending: list[str] | None = None
        self._has_waited = False
        self._place: dict[str, Any] | None = None
        self._beaten_at = float("-inf")

    def report(self, figures: dict[str, Any]) -> object:
        """Publish an epoch or the whole trial and report it."""
        figures = figures | {"elsewhere": True}
        if figures.get("done"):
            pending = self.finish(waits=not figures.get("no_room"))
            if pending and not figures.get("no_room"):
                figures["no_room"] = self._reason(pending)
        elif self._publisher:
            self._publisher.publish_epoch()
        self._leave_if_superseded()
        return self._report(figures)

    def report_heartbeat(self, place: dict[str, Any]) -> None:
        """Report a sign of life, every 15 s at most: Tune stops the training for the time of a report."""
        self._place = place
        if time.monotonic() - self._beaten_at >= self._remote.heartbeat_seconds:
            self._leave_if_superseded()
            self._report({HEARTBEAT: place, "elsewhere": True})
            self._beaten_at = time.monotonic()

    def finish(self, *, waits: bool = False) -> list[str]:
        """Publish what is left and return what is not published, the same in all further calls.

        Args:
            waits: Ask a store that takes no files for 10 minutes, with heartbeats for the driver, which may stop the
                trial meanwhile. After the trial was stopped, nothing can be reported any more.
        """
        if self._pending is None:
            self._publisher = self._publisher or self._open_publisher()
            options: dict[str, Any] = {"seconds": WAIT_SECONDS, "on_wait": self._wait} if waits else {}
            self._pending = self._publisher.finish(**options)
        return self._pending

    def finish_unreported(self) -> None:
        """Publish what is left of a trial whose end was not reported.

        Raises:
            UnpublishedTrialError: If files are not published.
        """
        if self._pending is None and (pending := self.finish(waits=True)):
            raise UnpublishedTrialError(self._reason(pending))

    def _wait(self) -> None:
        if not self._has_waited:
            print(f"the files of the trial wait for {self._remote.url}, for up to {WAIT_SECONDS:g} s")
            self._has_waited = True
        if self._place is not None:
            self.report_heartbeat(self._place)

    def _reason(self, pending: list[str]) -> str:
        return f"{self._remote.url} takes no files; {len(pending)} files of the trial wait in {self.folder}"

    def _open_publisher(self) -> Publisher:
        mirror = RunMirror(self._store, self.folder, below=self._prefix)
        return Publisher(mirror, prefix=self._prefix, say=print, may_publish=self._claim.is_held)

    def _leave_if_superseded(self) -> None:
        if self._publisher and self._publisher.is_superseded:
            raise SystemExit(f"another worker has taken over {self._remote.url}/{self._prefix}")


def _fetch(store: ObjectStore, folder: Path, prefix: str, claim: TrialClaim) -> None:
    """Claim and download the trial, once the driver has published its settings, and what its scoring needs."""
    begun = time.monotonic()
    while True:
        try:
            if store.size(f"{prefix}settings.json") is not None:
                _download(store, folder, prefix, claim)
                return
            reason = f"{store.url}/{prefix}settings.json is not published"
        except (OSError, pyarrow.ArrowException) as error:
            reason = first_line(error)
            store.reconnect()
        if time.monotonic() - begun > WAIT_SECONDS:
            raise UnreachableStoreError(
                f"node {socket.gethostname()} must reach the run folder for each trial, but for {WAIT_SECONDS:g} s: "
                f"{reason}"
            )
        time.sleep(1.0)


def _download(store: ObjectStore, folder: Path, prefix: str, claim: TrialClaim) -> None:
    """Make the cached files of the trial those of the store, with what its last worker here could not upload."""
    drop_other_run(store, folder)
    claim.take()
    path = folder / prefix / CLAIM
    is_last = path.exists() and path.read_text() in (claim.previous, claim.token)
    drop_stale_files(folder, prefix, store.list(prefix), is_last=is_last)
    RunMirror(store, folder, below=prefix).pull(prefix)
    RunMirror(store, folder).pull(recursive=False, beginning=_EVIDENCE)
    write_atomically(path, claim.token)


def _passed_on(remote: RemoteRun, claim: TrialClaim) -> RemoteRun:
    return dataclasses.replace(remote, claim=claim.token, earlier_claim=claim.previous or "")


def _release(claim: TrialClaim) -> None:
    with contextlib.suppress(OSError, pyarrow.ArrowException):  # the next worker of the trial takes it
        claim.release()


def _ignore(place: dict[str, Any]) -> None:
    """Take a heartbeat that the driver reads from the trial's folder."""
