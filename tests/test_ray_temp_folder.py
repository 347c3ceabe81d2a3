from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from whale_ray import ray_temp_folder
from whale_ray.errors import InputError
from whale_ray.ray_temp_folder import LONGEST, shorten_ray_folder


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The parent of short folders: an empty one of this test."""
    monkeypatch.setenv("RAY_TMPDIR", "")
    monkeypatch.setenv("TMPDIR", "")
    monkeypatch.setattr(tempfile, "tempdir", None)
    with tempfile.TemporaryDirectory(dir="/tmp") as parent:
        monkeypatch.setattr(ray_temp_folder, "SHORT_FOLDERS", (parent,))
        yield Path(parent)


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
@pytest.mark.parametrize(("length", "is_long"), [(LONGEST, False), (LONGEST + 1, True), (100, True)])
def test_a_folder_without_room_for_sockets_is_replaced_by_a_private_one(
    monkeypatch: pytest.MonkeyPatch, short: Path, variable: str, length: int, is_long: bool
) -> None:
    given = "/" + "x" * (length - 1)
    monkeypatch.setenv(variable, given)
    folder = shorten_ray_folder()
    if not is_long:
        assert folder is None
        return
    assert folder == short / f"whale_ray_{os.getuid()}" == Path(os.environ["RAY_TMPDIR"])
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (os.environ.get("TMPDIR") == str(folder)) == (variable == "TMPDIR" and length == 100)
    assert shorten_ray_folder() is None
    monkeypatch.setenv("RAY_TMPDIR", given)
    assert shorten_ray_folder() == folder  # the command of another process finds the same folder


def test_bytes_count_and_not_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/" + "ж" * (LONGEST // 2 + 1))
    assert shorten_ray_folder() is not None


@pytest.mark.parametrize("obstacle", ["link", "open to others", "file"])
def test_a_folder_that_others_can_use_is_never_taken(
    monkeypatch: pytest.MonkeyPatch, short: Path, tmp_path: Path, obstacle: str
) -> None:
    folder = short / f"whale_ray_{os.getuid()}"
    if obstacle == "link":
        folder.symlink_to(tmp_path)
    elif obstacle == "file":
        folder.touch()
    else:
        folder.mkdir()
        folder.chmod(0o755)
    monkeypatch.setenv("TMPDIR", "/" + "x" * 99)
    with pytest.raises(
        InputError, match=rf"at most {LONGEST} bytes for its sockets, but /xxx.* has 100 .*Set RAY_TMPDIR"
    ):
        shorten_ray_folder()


def test_the_longest_folder_has_room_for_rays_own_socket_path() -> None:
    from ray._private.utils import validate_socket_filepath

    session = "session_2026-11-28_09-20-24_123456_4194304/sockets/plasma_store.1"
    validate_socket_filepath(f"{'/' + 'x' * (LONGEST - 1)}/ray/{session}")
