"""Run folders of drivers: a local folder, or a URL whose run folder is mirrored and published while the sweep runs."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from whale_ray.atomic_files import write_atomically
from whale_ray.errors import InputError
from whale_ray.file_errors import real_path
from whale_ray.inference.bundle_transfer.object_store import ObjectStore, is_url
from whale_ray.inference.bundle_transfer.storage_systems import storage_errors
from whale_ray.sweep.run_store.driver_lease import DriverLease
from whale_ray.sweep.run_store.mirror import RunMirror
from whale_ray.sweep.run_store.node_cache import adopt_cache, session_file
from whale_ray.sweep.run_store.old_runs import finish_move, move_run_aside
from whale_ray.sweep.run_store.publisher import Publisher
from whale_ray.sweep.run_store.run_download import Say, download_run, mirror_folder, pull_with_retries

_EPOCHS_SECONDS = 30.0
_WEIGHTS_SECONDS = 600.0


@dataclass(frozen=True)
class RemoteRun:
    """A run folder in a run store, for workers on all nodes.

    Attributes:
        url: URL of the run folder.
        session: Random ID of the driver's session.
        folder: The driver's mirror, on its node.
        heartbeat_seconds: Time between two heartbeats of a trial on another node.
        claim: Token of the claim on a trial; "" before it is claimed.
        earlier_claim: Token of the worker from which it was taken.
    """

    url: str
    session: str
    folder: Path
    heartbeat_seconds: float = 15.0
    claim: str = ""
    earlier_claim: str = ""

    def is_shared(self, folder: Path) -> bool:
        """Return whether a local folder is the mirror that the driver itself uses and publishes."""
        try:
            return session_file(folder).read_text() == self.session
        except OSError:
            return False


class OpenedRuns:
    """The folder of run folders that a driver works on.

    Attributes:
        folder: The local folder; the run folder is below it.
        remote: The run folder in a run store; None if `folder` is all there is.
        unpublished: Files that could not be uploaded, known when the block has ended.
        is_taken_over: Another driver has taken over the run folder; known when the block has ended.
        publish: Uploads what has changed until now and waits for it, unless the store takes no files.
    """

    def __init__(
        self,
        folder: Path,
        remote: RemoteRun | None = None,
        mirror: RunMirror | None = None,
        *,
        say: Say = lambda line: None,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.folder, self.remote, self._mirror = folder, remote, mirror
        self._say, self._is_stopping = say, is_stopping
        self.unpublished: list[str] = []
        self.is_taken_over = False
        self.publish: Callable[[], None] = lambda: None

    def watched(self, *, stall_minutes: float | None) -> RemoteRun | None:
        """Return `remote` with heartbeats that are frequent enough to find stalled trials.

        Args:
            stall_minutes: Minutes without a heartbeat after which a trial has stalled; None for no limit.
        """
        if self.remote is None or stall_minutes is None:
            return self.remote
        return replace(self.remote, heartbeat_seconds=min(self.remote.heartbeat_seconds, 15.0 * stall_minutes))

    def fetch_trial(self, trial: str, epochs: int = 0) -> None:
        """Download what a worker on another node has published of a trial.

        Args:
            trial: ID of the trial.
            epochs: Number of epochs that the worker has reported; up to 30 s, they are awaited.

        Raises:
            OSError: If the store does not answer, after a few seconds.
            pyarrow.ArrowException: As above.
        """
        if self._mirror is None:
            return
        deadline = time.monotonic() + _EPOCHS_SECONDS
        pull_with_retries(self._mirror, f"trials/{trial}/", weights=False)
        while not _has_epochs(self._mirror.folder / "trials" / trial, epochs) and time.monotonic() < deadline:
            time.sleep(0.2)
            pull_with_retries(self._mirror, f"trials/{trial}/", weights=False)

    def fetch_weights(self, trial: str) -> None:
        """Download the weights of a finished trial, which all other downloads leave out.

        Args:
            trial: ID of the trial.

        Raises:
            InputError: If the store does not answer for 10 minutes, or when the sweep is interrupted.
        """
        prefix = f"trials/{trial}/checkpoint/"
        if self._mirror is not None and self._mirror.has_left_out(prefix):
            store = self._mirror.store
            waits = f"waiting for {store.url}, from which the weights of trial {trial} are downloaded"
            store.reconnect()  # an interrupted sweep tries once
            with storage_errors(store.url):
                pull_with_retries(
                    self._mirror,
                    prefix,
                    attempts=None,
                    seconds=_WEIGHTS_SECONDS,
                    on_wait=lambda: self._say(waits),
                    is_stopping=self._is_stopping,
                )


def _has_epochs(folder: Path, epochs: int) -> bool:
    """Return whether a trial has ended or epochs.csv has the row of an epoch; in folds, it has them later."""
    if not epochs or (folder / "result.json").exists() or (folder / "folds").exists():
        return True
    path = folder / "epochs.csv"
    return path.exists() and any(line.startswith(f"{epochs},") for line in path.read_text().splitlines())


@contextmanager
def opened_runs(
    address: Path | str, name: str, *, fresh: bool, say: Say, stopping: threading.Event
) -> Iterator[OpenedRuns]:
    """Yield the local folder of run folders; changes of the run folder are published while the block lasts.

    Args:
        address: Folder or URL of run folders.
        name: Name of the run folder.
        fresh: Give an existing run in the store another name first.
        say: Prints a line.
        stopping: Set if another driver takes over the run folder.

    Raises:
        InputError: If the store cannot be used, another driver uses the run folder, it holds something else, or it
            would be deleted with a job.
    """
    if not is_url(address):
        _refuse_job_folder(Path(address))
        yield OpenedRuns(Path(address))
        return
    url = f"{str(address).rstrip('/')}/{name}"

    def stop() -> None:
        say(f"another driver has taken over {url}: this sweep stops")
        stopping.set()

    with storage_errors(url):
        store = ObjectStore(url)
        lease = DriverLease(store, say=say, on_lost=stop)
        lease.acquire()
    try:
        with storage_errors(url):
            folder = mirror_folder(url)
            finish_move(store, folder, is_held=lease.is_held)
            if fresh:
                move_run_aside(store, folder, is_held=lease.is_held)
            adopt_cache(store, folder, say=say)
            mirror = download_run(store, folder, say)
        remote = RemoteRun(url, uuid.uuid4().hex, real_path(folder))
        opened = OpenedRuns(mirror.folder.parent, remote, mirror, say=say, is_stopping=stopping.is_set)
        with _published(opened, mirror, lease, say):
            yield opened
    finally:
        lease.release()


@contextmanager
def _published(opened: OpenedRuns, mirror: RunMirror, lease: DriverLease, say: Say) -> Iterator[None]:
    assert opened.remote is not None
    write_atomically(session_file(mirror.folder), opened.remote.session)
    publisher = Publisher(mirror, say=say, may_publish=lease.is_held)
    opened.publish = publisher.flush
    try:
        yield
    finally:
        opened.unpublished = publisher.finish()
        opened.is_taken_over = lease.is_lost
        if lease.is_lost:
            say(
                f"another driver has taken over {mirror.store.url}: nothing was published after that, neither "
                f"leaderboard nor best bundle. The files of this sweep are in {mirror.folder}"
            )
        elif opened.unpublished:
            shown = ", ".join(opened.unpublished[:5]) + (", …" if len(opened.unpublished) > 5 else "")
            say(
                f"{len(opened.unpublished)} files are not in {mirror.store.url}: {shown}. They are kept in "
                f"{mirror.folder}; the same command on this machine uploads them"
            )


def _refuse_job_folder(folder: Path) -> None:
    """Raise InputError if a folder is in Ray's copy of the working folder of a submitted job."""
    if any(part.startswith("_ray_pkg_") for part in real_path(folder).parts):
        raise InputError(
            f"a submitted sweep must have a run folder that outlives its job, but {folder} is in the copy of the "
            "working folder, which Ray deletes. Name a folder that the nodes share or object storage: "
            "--runs s3://BUCKET/PREFIX"
        )
