"""Folder of a discovery: names of its files, the settings it was made with, and the lock of its process."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from whale_ray.atomic_files import write_atomically
from whale_ray.errors import DataError
from whale_ray.file_errors import real_path

_FORMAT = 1
_STATE, _LOCK = "discovery.json", "lock"


class DiscoveryFolder:
    """Paths of a discovery folder.

    Args:
        path: The folder; it is created when it is opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.photographs = path / "photographs.csv"
        self.embeddings = path / "embeddings.npz"
        self.keypoints = path / "keypoints"
        self.answers = path / "answers.jsonl"
        self.clusters = path / "clusters.csv"
        self.questions = path / "questions.csv"
        self.contradictions = path / "contradictions.csv"
        self.table = path / "table.csv"

    @contextmanager
    def opened(self, photographs: Path) -> Iterator[None]:
        """Hold the folder for the length of a block; it is created if it does not exist.

        Args:
            photographs: Folder of the photographs.

        Raises:
            DataError: If another process holds the folder, it belongs to other photographs, or it is another folder.
        """
        self._check_content()
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise DataError(
                f"one process uses a discovery folder at a time, but another one uses {self.path}. "
                "End it, or name another folder with --out"
            ) from None
        try:
            self._check_photographs(real_path(photographs))
            yield
        finally:
            lock.release()

    def _check_content(self) -> None:
        present = {path.name for path in self.path.iterdir()} if self.path.is_dir() else set()
        if present - {_LOCK} and _STATE not in present:
            raise DataError(
                f"a discovery is kept in a folder of its own, but {self.path} holds other files. "
                "Name another folder with --out"
            )

    def _check_photographs(self, photographs: Path) -> None:
        state = self.read_state()
        if state.setdefault("photographs", str(photographs)) != str(photographs):
            raise DataError(
                f"a discovery folder belongs to one folder of photographs, but {self.path} belongs to "
                f"{state['photographs']}, and not to {photographs}. Name another folder with --out"
            )
        self.write_state(state)

    def read_state(self) -> dict[str, Any]:
        """Return the content of discovery.json; empty if it does not exist.

        Raises:
            DataError: If the file is damaged or of another version.
        """
        path = self.path / _STATE
        if not path.is_file():
            return {}
        try:
            state = json.loads(path.read_text())
        except ValueError as error:
            raise DataError(f"{path} must be JSON, but is not: {error}. Restore it from a copy") from None
        found = state.get("format") if isinstance(state, dict) else None
        if found != _FORMAT:
            raise DataError(f"this version reads discoveries of format {_FORMAT}, but {path} has format {found}")
        return dict(state)

    def write_state(self, state: Mapping[str, Any]) -> None:
        """Write discovery.json."""
        write_atomically(self.path / _STATE, json.dumps({**state, "format": _FORMAT}, indent=1) + "\n")

    def read_names(self) -> dict[str, list[str]]:
        """Return the photographs by discovered name."""
        return {str(name): list(images) for name, images in self.read_state().get("names", {}).items()}

    def write_names(self, names: Mapping[str, Sequence[str]]) -> None:
        """Write the photographs by discovered name."""
        self.write_state({**self.read_state(), "names": {name: list(images) for name, images in names.items()}})
