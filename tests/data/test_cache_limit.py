"""Disk space of decoded photographs: WHALE_RAY_CACHE_GB."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from whale_ray.data.caches.cache_limit import make_room, mark_used
from whale_ray.errors import DataError


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Three geometries of 1,000 bytes each, used in the order of their names."""
    for place, name in enumerate(("first", "second", "third")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pixels.npy").write_bytes(bytes(1000))
        os.utime(tmp_path / name, (place, place))
    (tmp_path / ".draft").mkdir()
    (tmp_path / "first.lock").touch()
    return tmp_path


def folders(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir() if path.is_dir()} - {".draft"}


@pytest.mark.parametrize(
    ("gigabytes", "left"),
    [
        ("", {"first", "second", "third"}),
        ("4e-6", {"first", "second", "third"}),
        ("3e-6", {"second", "third"}),
        ("2.5e-6", {"third"}),
        ("1e-6", set()),
    ],
)
def test_the_least_recently_used_geometries_make_room(
    cache: Path, gigabytes: str, left: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHALE_RAY_CACHE_GB", gigabytes)
    make_room(cache, 1000)
    assert folders(cache) == left
    assert (cache / ".draft").exists(), "another process writes it"


def test_a_used_geometry_stays_longer(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHALE_RAY_CACHE_GB", "2e-6")
    mark_used(cache / "first")
    make_room(cache, 1000)
    assert folders(cache) == {"first"}


def test_photographs_larger_than_the_limit_are_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHALE_RAY_CACHE_GB", "0.001")
    with pytest.raises(DataError, match=r"need 0\.01 GB, but WHALE_RAY_CACHE_GB allows 0\.001 GB\. Raise it"):
        make_room(cache, 10**7)
    assert folders(cache) == {"first", "second", "third"}


@pytest.mark.parametrize("text", ["0", "-1", "many", "nan"])
def test_a_limit_that_is_no_positive_number_is_refused(cache: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHALE_RAY_CACHE_GB", text)
    with pytest.raises(DataError, match=f"a number of GB above 0, but got {text}"):
        make_room(cache, 1)
