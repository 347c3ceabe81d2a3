"""Publisher: a thread that uploads what has changed in a mirror while the process works on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pyarrow

from whale_ray.errors import first_line
from whale_ray.file_errors import is_disk_full
from whale_ray.sweep.run_store.mirror import RunMirror

EVERY_SECONDS = 3.0
ASK_SECONDS = 5.0
FINISH_SECONDS = 20.0


class Publisher:
    """Uploads the changes of a mirror every few seconds, and tries again with fresh credentials after an error.

    Args:
        mirror: The mirror.
        prefix: Folder below the run folder to upload; "" for all.
        say: Prints a line when the store cannot be reached, and when it can be reached again.
        may_publish: Asked before changes are uploaded, and again in an upload that takes long or whose process was
            suspended; if False, nothing is uploaded or deleted any more.

    Attributes:
        is_superseded: True once `may_publish` was False.
    """

    def __init__(
        self,
        mirror: RunMirror,
        *,
        prefix: str = "",
        say: Callable[[str], None],
        may_publish: Callable[[], bool] = lambda: True,
    ) -> None:
        self._mirror, self._prefix, self._say, self._may_publish = mirror, prefix, say, may_publish
        self.is_superseded = False
        self._asked_at = float("-inf")
        self._ended = threading.Event()
        self._is_failing = self._is_disk_full = False
        self._state = threading.Condition()
        self._requested = self._published = 0
        self._thread = threading.Thread(target=self._run, name="run store publisher", daemon=True)
        self._thread.start()

    def publish_epoch(self) -> None:
        """Start to upload the files of an epoch, and wait until those of the epoch before it are uploaded.

        So a node that is lost costs one finished epoch at most. While the store takes no files, nothing is awaited.
        """
        with self._state:
            before = self._requested
            self._requested += 1
            self._state.notify_all()
            self._state.wait_for(lambda: self._published >= before or self._is_failing or self._ended.is_set())

    def flush(self) -> None:
        """Upload what has changed until now, and wait for it; not while the store takes no files."""
        self.publish_epoch()
        self.publish_epoch()

    def stop(self) -> None:
        """End the thread after the upload that it is in."""
        self._ended.set()
        with self._state:
            self._state.notify_all()
        self._thread.join()

    def finish(self, *, seconds: float | None = None, on_wait: Callable[[], object] = lambda: None) -> list[str]:
        """Upload what is left, again and again if the store does not answer, and return what is not uploaded.

        Args:
            seconds: Longest time; None for 20 s. A full disk of this machine is awaited for 20 s at most.
            on_wait: Called before each further try.
        """
        self.stop()
        begun, limit = time.monotonic(), FINISH_SECONDS if seconds is None else seconds
        while not self._push(thorough=True):
            if self._is_disk_full:
                limit = min(limit, FINISH_SECONDS)
            if time.monotonic() - begun >= limit:
                break
            on_wait()
            time.sleep(min(1.0, limit / 4))
        return [] if self.is_superseded else self._mirror.changes(self._prefix).changed

    def _run(self) -> None:
        while not self._ended.is_set():
            with self._state:
                self._state.wait_for(self._is_due, timeout=EVERY_SECONDS)
            if not self._ended.is_set():
                self._push()

    def _is_due(self) -> bool:
        return self._ended.is_set() or (self._requested > self._published and not self._is_failing)

    def _push(self, *, thorough: bool = False) -> bool:
        """Upload what has changed and return whether the store took it."""
        requested, is_failing = self._requested, False
        try:
            if self._is_failing:
                self._mirror.store.reconnect()
            changes = self._mirror.changes(self._prefix, thorough=thorough)
            self._asked_at = float("-inf")
            if changes and self._may_go_on():
                self._mirror.publish(changes, may_go_on=self._may_go_on)
        except (OSError, pyarrow.ArrowException) as error:
            is_failing, self._is_disk_full = True, is_disk_full(error)
            if not self._is_failing:
                self._say(
                    f"{self._mirror.store.url} takes no files: {first_line(error)}. The sweep continues; its files are "
                    f"kept in {self._mirror.folder}"
                )
        if self._is_failing and not is_failing:
            self._say(f"{self._mirror.store.url} takes files again")
        with self._state:
            self._is_failing = is_failing
            self._published = self._published if is_failing else requested
            self._state.notify_all()
        return not is_failing

    def _may_go_on(self) -> bool:
        now = time.time()  # unlike the monotonic clock, it goes on while a machine is suspended
        if not self.is_superseded and abs(now - self._asked_at) > ASK_SECONDS:
            self.is_superseded = not self._may_publish()
            self._asked_at = now
        return not self.is_superseded
