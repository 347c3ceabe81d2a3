"""Fixtures of the tests of sweeps."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_store_files import store_on_disk, use_empty_cache

from whale_ray.inference.bundle_transfer.object_store import ObjectStore


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """The store of a run folder that does not exist yet, on a machine with an empty cache."""
    use_empty_cache(tmp_path, monkeypatch)
    return store_on_disk(tmp_path)
