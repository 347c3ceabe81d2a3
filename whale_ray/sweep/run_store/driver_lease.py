"""Lease on a run folder in object storage: one driver at a time writes to it.

Each driver writes one object below `.lease/` and then lists that folder. Storage that lists what was written
(S3, GCS, disks) shows at least one of two drivers the other's object, and a driver that sees another one gives way. So
no conditional writes are needed, which pyarrow does not offer.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pyarrow

from whale_ray.errors import InputError
from whale_ray.inference.bundle_transfer.object_store import ObjectStore

FOLDER = ".lease"
RENEW_SECONDS = 5.0
EXPIRE_SECONDS = 30.0
WRITE_SECONDS = 6.0  # S3's own limits end a write without an answer after 20 s
_MAX_CHANGES = 2  # of another lease, as seen at the renewals of this one


class LeaseLostError(Exception):
    """Another driver has taken over the run folder."""


class DriverLease:
    """Lease of this driver, renewed by a thread while the driver lives.

    A lease whose object has not changed for 30 s by the clock of the driver that waits is taken from its driver; at
    once, if that driver was a process of this machine and has ended. Clocks of different machines are not compared.

    Args:
        store: Store of the run folder.
        say: Prints a line while another driver's lease is watched.
        on_lost: Called once if another driver has taken the lease.

    Attributes:
        is_lost: Another driver has taken the lease.
    """

    def __init__(self, store: ObjectStore, *, say: Callable[[str], None], on_lost: Callable[[], None]) -> None:
        self._store, self._say, self._on_lost = store, say, on_lost
        self._key = f"{FOLDER}/{uuid.uuid4().hex}"
        self._beats = 0
        self._seen: dict[str, tuple[bytes, int]] = {}  # contents and changes of others' leases
        self.is_lost = False
        self._losing = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="run store lease", daemon=True)

    def acquire(self) -> None:
        """Take the lease. If that fails or is interrupted, no object of this driver is left.

        Raises:
            InputError: If another driver holds it.
            OSError: If the storage refuses a call, or a write has no answer after 6 s.
        """
        self._store.list(FOLDER)  # without an answer, this fails after 6 s
        try:
            while True:
                _call_within(WRITE_SECONDS, self._write, undo=self._delete)
                others = self._others()
                if not others:
                    break
                self._store.delete(self._key)
                self._wait_for(others)
        except BaseException:
            self._delete()
            raise
        self._thread.start()

    def release(self) -> None:
        """Give the lease back, if the storage can be reached."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._store.reconnect()  # this thread has used its connection last when the sweep began
        self._delete()

    def renew(self) -> None:
        """Change the lease's object, so that others see a living driver.

        Raises:
            LeaseLostError: If another driver has deleted it, or renews its own.
        """
        if self._is_taken():
            raise LeaseLostError
        self._write()
        found = {key: content for key in self._others() if (content := self._content(key)) is not None}
        self._seen = {key: self._count_change(key, content) for key, content in found.items()}
        # A driver that only asks deletes its object at once, or leaves one that does not change if it is killed.
        if any(changes >= _MAX_CHANGES for _, changes in self._seen.values()):
            raise LeaseLostError

    def is_held(self) -> bool:
        """Return whether no other driver has taken the lease, as the store says now.

        A driver that was suspended asks before it renews its lease.

        Raises:
            OSError: If the storage refuses the call.
        """
        if not self.is_lost and self._is_taken():
            self._lose()
        return not self.is_lost

    def _is_taken(self) -> bool:
        # Without any object, the bucket has vanished or was emptied: no driver has taken over.
        return self._store.size(self._key) is None and bool(self._store.list())

    def _lose(self) -> None:
        with self._losing:
            if not self.is_lost:
                self.is_lost = True
                self._on_lost()

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            try:
                self.renew()
            except LeaseLostError:
                self._lose()
                return
            except (OSError, pyarrow.ArrowException):  # the publisher says so
                self._store.reconnect()  # the lease expires only if another driver asks for it

    def _count_change(self, key: str, content: bytes) -> tuple[bytes, int]:
        before, changes = self._seen.get(key, (content, 0))
        return content, changes + (content != before)

    def _delete(self) -> None:
        with contextlib.suppress(OSError, pyarrow.ArrowException):  # it expires
            self._store.delete(self._key)

    def _write(self) -> None:
        self._beats += 1
        self._store.write(self._key, json.dumps(_this_process() | {"beats": self._beats}).encode())

    def _others(self) -> list[str]:
        return [key for key in self._store.list(FOLDER) if key != self._key and not key.startswith(f"{FOLDER}/.")]

    def _wait_for(self, others: list[str]) -> None:
        """Return when the drivers of these leases have ended, their leases deleted; raise if one lives."""
        alive = {key: content for key in others if (content := self._content(key)) and not self._has_ended(key)}
        if alive:
            self._say(
                f"another driver has used {self._store.url}: waiting up to {EXPIRE_SECONDS:g} s for its heartbeat"
            )
        begun = time.monotonic()
        while alive and time.monotonic() - begun < EXPIRE_SECONDS:
            time.sleep(
                min(1.0, EXPIRE_SECONDS / 4) * random.uniform(0.5, 1.0)
            )  # two drivers that ask must not keep step
            for key, content in list(alive.items()):
                now = self._content(key)
                if now is None:
                    del alive[key]
                elif now != content:
                    holder = json.loads(now)
                    raise InputError(
                        f"one driver at a time may write to {self._store.url}, but process {holder.get('pid')} on "
                        f"{holder.get('host')} does. Wait for it or stop it"
                    )
        for key in others:
            self._store.delete(key)

    def _content(self, key: str) -> bytes | None:
        try:
            return self._store.read(key)
        except FileNotFoundError:
            return None

    def _has_ended(self, key: str) -> bool:
        """Return whether the lease is that of a process of this machine that has ended."""
        content = self._content(key)
        if content is None:
            return True
        try:
            holder: dict[str, Any] = json.loads(content)
            here = _this_process()
            return holder["machine"] == here["machine"] and not Path(f"/proc/{int(holder['pid'])}").exists()
        except (ValueError, KeyError, TypeError):
            return False


def _call_within(seconds: float, write: Callable[[], None], *, undo: Callable[[], None]) -> None:
    """Call a function that writes, in a thread; raise TimeoutError and leave the thread if it takes longer.

    Args:
        seconds: Longest time.
        write: The function.
        undo: Called by the thread after a write that was not awaited.
    """
    outcome: Future[None] = Future()

    def run() -> None:
        error = None
        try:
            write()
        except Exception as caught:
            error = caught
        if not outcome.set_running_or_notify_cancel():
            undo()
        elif error is None:
            outcome.set_result(None)
        else:
            outcome.set_exception(error)

    threading.Thread(target=run, name="run store write", daemon=True).start()
    try:
        outcome.result(timeout=seconds)
    except BaseException as error:
        if outcome.cancel() and isinstance(error, TimeoutError):
            raise TimeoutError(f"it lists objects, but a write has no answer after {seconds:g} s") from error
        raise


def _this_process() -> dict[str, Any]:
    """Return process and machine; `machine` is "" where processes of one machine cannot be told from others'."""
    try:
        machine = f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        machine = f"{uuid.uuid4()}"
    return {"pid": os.getpid(), "host": socket.gethostname(), "machine": machine}
