"""Publisher: a thread that uploads what has changed in a mirror while the process works on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pyarrow

from whale_ray.errors import first_line
from whale_ray.sweep.run_store.mirror import RunMirror

EVERY_SECONDS = 3.0
FINISH_SECONDS = 20.0


class Publisher:
    """Uploads the changes of a mirror every few seconds, and tries again with fresh credentials after an error.

    Args:
        mirror: The mirror.
        prefix: Folder below the run folder to upload; "" for all.
        say: Prints a line when the store cannot be reached, and when it can be reached again.
    """

    def __init__(self, mirror: RunMirror, *, prefix: str = "", say: Callable[[str], None]) -> None:
        self._mirror, self._prefix, self._say = mirror, prefix, say
        self._ended = threading.Event()
        self._is_failing = False
        self._thread = threading.Thread(target=self._run, name="run store publisher", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the upload that it is in."""
        self._ended.set()
        self._thread.join()

    def finish(self) -> list[str]:
        """Upload what is left, for up to 20 s if the store does not answer, and return what is not uploaded."""
        self.stop()
        begun = time.monotonic()
        while not self._push() and time.monotonic() - begun < FINISH_SECONDS:
            time.sleep(min(1.0, FINISH_SECONDS / 4))
        return self._mirror.pending(self._prefix)

    def _run(self) -> None:
        while not self._ended.wait(EVERY_SECONDS):
            self._push()

    def _push(self) -> bool:
        """Upload what has changed and return whether the store took it."""
        url, folder = self._mirror.store.url, self._mirror.folder
        try:
            if self._is_failing:
                self._mirror.store.reconnect()
            self._mirror.push(self._prefix)
        except (OSError, pyarrow.ArrowException) as error:
            if not self._is_failing:
                self._say(
                    f"{url} takes no files: {first_line(error)}. The sweep continues; its files are kept in {folder}"
                )
            self._is_failing = True
            return False
        if self._is_failing:
            self._say(f"{url} takes files again")
        self._is_failing = False
        return True
