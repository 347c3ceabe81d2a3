"""Files of a model: from a folder, the local cache of the Hugging Face Hub, or the hub."""

from __future__ import annotations

import json
import os
import socket
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from whale_ray.errors import EncoderError


@dataclass(frozen=True)
class ModelSource:
    """Folder or hub repository that holds a model.

    Attributes:
        label: Name of the encoder, for messages.
        location: Path of the folder, or id of the repository, `owner/name`.
        revision: Branch, tag or commit of the repository; None for its default branch.
    """

    label: str
    location: str
    revision: str | None = None

    @property
    def is_folder(self) -> bool:
        """True if the model lies in a folder."""
        return Path(self.location).is_dir()

    def find(self, *names: str) -> Path | None:
        """Return the path of the first of these files that the model has; None if it has none of them.

        Raises:
            EncoderError: If the hub must be asked and refuses, or cannot be reached.
        """
        if self.is_folder:
            return next((path for name in names if (path := Path(self.location) / name).is_file()), None)
        return self._cached(names) or self._downloaded(names)

    def config(self) -> dict[str, Any]:
        """Return the content of the model's config.json.

        Raises:
            EncoderError: If it is missing or no mapping.
        """
        path = self.find("config.json")
        if path is None:
            raise EncoderError(f"{self.label} cannot be loaded: {self.location} has no config.json. Name another model")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise EncoderError(f"{self.label} cannot be loaded: its config.json is no JSON ({error})") from error
        if not isinstance(content, dict):
            raise EncoderError(f"{self.label} cannot be loaded: its config.json is no mapping of names to values")
        return content

    def _cached(self, names: tuple[str, ...]) -> Path | None:
        from huggingface_hub.errors import EntryNotFoundError

        for name in names:
            try:
                return self._download(name, local_files_only=True)
            except EntryNotFoundError:
                continue
        return None

    def _downloaded(self, names: tuple[str, ...]) -> Path | None:
        from huggingface_hub.errors import EntryNotFoundError

        require_hub(self.location)
        for name in names:
            try:
                return self._download(name, local_files_only=False)
            except EntryNotFoundError:
                continue
            except OSError as error:
                if (refusal := explain_hub_error(error, self.location, self.revision)) is None:
                    raise
                raise refusal from error
        return None

    def _download(self, name: str, *, local_files_only: bool) -> Path:
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HFValidationError

        try:
            return Path(hf_hub_download(self.location, name, revision=self.revision, local_files_only=local_files_only))
        except HFValidationError as error:
            raise EncoderError(f"{self.label} must be a hub id, owner/name, or a folder: {error}") from error


def locate_model(name: str, *, label: str) -> ModelSource:
    """Return the folder, or the hub repository `owner/name` or `owner/name@revision`, that a name means.

    Args:
        name: Folder, or hub id with or without revision.
        label: Name of the encoder, for messages.

    Raises:
        EncoderError: If the name can only be a folder and there is none.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return ModelSource(label, str(folder))
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise EncoderError(f"{label} must be a hub id or a folder, but there is no such folder")
    location, _, revision = name.partition("@")
    return ModelSource(label, location, revision or None)


def commit_of(path: Path) -> str | None:
    """Return the commit to which a file of the hub's local cache belongs; None for other files."""
    return path.parent.name if path.parent.parent.name == "snapshots" else None


def require_hub(source: str) -> None:
    """Ask once, and quickly, whether the hub can be reached at all.

    Raises:
        EncoderError: If it cannot be reached.
    """
    from huggingface_hub import constants, is_offline_mode

    address = urlsplit(constants.ENDPOINT)
    if urllib.request.getproxies() and not is_offline_mode():
        return
    try:
        if is_offline_mode():
            raise OSError("HF_HUB_OFFLINE is set")
        port = address.port or (443 if address.scheme == "https" else 80)
        socket.create_connection((address.hostname or "", port), timeout=5).close()
    except OSError as error:
        raise EncoderError(
            f"{source} is not on this machine and the hub cannot be reached ({error}). "
            f"Connect this machine, or fetch it elsewhere with `hf download {source} --local-dir DIR` "
            "and name the folder DIR instead"
        ) from error


def explain_hub_error(error: BaseException, source: str, revision: str | None) -> EncoderError | None:
    """Return the hub's refusal of a repository with its remedy; None for any other error.

    Args:
        error: What huggingface_hub or transformers raised.
        source: Id of the repository.
        revision: The revision that was asked for.
    """
    from huggingface_hub import errors

    for cause in _causes(error):
        if isinstance(cause, errors.GatedRepoError):
            return EncoderError(
                f"{source} is a gated model, and this machine has no access. Accept its terms at "
                f"https://huggingface.co/{source}, then log in with `hf auth login` or set HF_TOKEN"
            )
        if isinstance(cause, errors.RevisionNotFoundError):
            return EncoderError(
                f"{source} has no revision {revision!r} on the hub: it was renamed or its history was rewritten. "
                f"Name a commit, tag or branch that exists: {source}@REVISION"
            )
        if isinstance(cause, errors.RepositoryNotFoundError):
            return EncoderError(
                f"the hub has no model {source}, or it is private. Correct the name, or log in with `hf auth login`"
            )
        if isinstance(cause, errors.HfHubHTTPError) and not isinstance(cause, errors.EntryNotFoundError):
            return EncoderError(f"the hub refused {source}: {' '.join(str(cause).split())[:200]}. Try again later")
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
