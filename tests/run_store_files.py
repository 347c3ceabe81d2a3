"""Run stores on this machine's disk, for the tests of run stores."""

from __future__ import annotations

from pathlib import Path

import pytest

from whale_ray.inference.bundle_transfer.object_store import ObjectStore
from whale_ray.sweep.run_store import publisher


def store_on_disk(folder: Path, *, scheme: str = "file") -> ObjectStore:
    """Return the store of the run folder `little` below a folder, opened by pyarrow (file) or fsspec (local)."""
    return ObjectStore(f"{scheme}://{folder}/disk/runs/little")


def use_empty_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a cache folder of the test, and let publishers give up soon."""
    monkeypatch.setenv("WHALE_RAY_CACHE", str(folder / "cache"))
    monkeypatch.setattr(publisher, "FINISH_SECONDS", 0.2)


def write_files(folder: Path, files: dict[str, str]) -> Path:
    """Write texts into files below a folder, and return the folder."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder
