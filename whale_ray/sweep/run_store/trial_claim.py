"""Claim of a worker on a trial in a run store: of several workers of one trial, only the last one publishes."""

from __future__ import annotations

import uuid

from whale_ray.inference.bundle_transfer.object_store import ObjectStore

CLAIM = ".worker"
"""Name of the claim's object in the folder of a trial, and of the file with the last token of a node's cache."""


class TrialClaim:
    """Claim of one worker on a trial.

    A node that was cut off is given up, and its trials start elsewhere. When it is back, its workers would overwrite
    what the new ones have published. So each worker writes its token as the object `.worker` before it reads the
    trial, and publishes only while the token is there. Between the check and the end of an upload another worker can
    take the claim; its next upload replaces what came late.

    Args:
        store: Store of the run folder.
        prefix: Folder of the trial in it, with a slash at the end.
        token: Token of a claim that another process of the same worker has taken; "" for a new one.
        previous: With a token: token of the worker from which the claim was taken.

    Attributes:
        token: Token of this claim.
        previous: Token of the worker from which the claim was taken; "" if that has released it, None before `take`.
    """

    def __init__(self, store: ObjectStore, prefix: str, *, token: str = "", previous: str = "") -> None:
        self.token = token or uuid.uuid4().hex
        self.previous = previous if token else None
        self._store, self._prefix = store, prefix
        self._is_passed_on = bool(token)

    def take(self) -> None:
        """Take the claim from any other worker; a claim with a token is taken already."""
        if not self._is_passed_on:
            if self.previous is None:  # the first call, or one after errors
                self.previous = self.holder() or ""
            self._store.write(self._key, self.token.encode())

    def holder(self) -> str | None:
        """Return the token in the store; None if there is none."""
        try:
            return self._store.read(self._key).decode()
        except FileNotFoundError:
            return None

    def is_held(self) -> bool:
        """Return whether no other worker has taken the claim, and no other run begun, in which the trial waits.

        An emptied store does not change the holder.
        """
        holder = self.holder()
        if holder is None:
            return all(self._store.size(key) is None for key in (f"{self._prefix}settings.json", "identity.json"))
        return holder == self.token

    def release(self) -> None:
        """Delete the claim if this process has taken it and still holds it."""
        if not self._is_passed_on and self.is_held():
            self._store.delete(self._key)

    @property
    def _key(self) -> str:
        return f"{self._prefix}{CLAIM}"
