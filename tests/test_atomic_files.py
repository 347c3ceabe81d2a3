"""Atomic writes: a file is the old one or the new one after a crash."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from whale_ray.atomic_files import replace_symlink, replaced_atomically, write_atomically


def test_text_and_bytes_replace_what_was_there_and_make_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.csv"
    write_atomically(path, "Küste\n")
    assert path.read_text(encoding="utf-8") == "Küste\n"
    write_atomically(path, b"\0\1")
    assert path.read_bytes() == b"\0\1"
    assert path.stat().st_mode & 0o777 == 0o644


def test_an_error_while_writing_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")

    def write_half() -> None:
        with replaced_atomically(path) as draft:
            draft.write_text("half")
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="the disk is full"):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_draft_keeps_a_relative_path_and_an_error_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with replaced_atomically(Path("folder/file.csv")) as draft:
        assert draft.parent == Path("folder")
        draft.write_text("new")
    with pytest.raises(OSError, match=r"File name too long: '(folder/)?x{300}'"):
        write_atomically(Path("folder") / ("x" * 300), "text")


def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")
    code = (
        "import os, signal, sys; from pathlib import Path; from whale_ray.atomic_files import replaced_atomically\n"
        "with replaced_atomically(Path(sys.argv[1])) as draft:\n"
        "    draft.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_the_draft_keeps_the_ending_that_writers_look_at(tmp_path: Path) -> None:
    with replaced_atomically(tmp_path / "embeddings.npz") as draft:
        assert draft.suffix == ".npz"
        assert draft.parent == tmp_path


def test_a_link_is_replaced_in_one_step_and_moves_with_its_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "run" / "bundles" / name).mkdir(parents=True)
    link = tmp_path / "run" / "best"
    replace_symlink(link, tmp_path / "run" / "bundles" / "a")
    replace_symlink(link, tmp_path / "run" / "bundles" / "b")
    assert os.readlink(link) == "bundles/b"
    (tmp_path / "run").rename(tmp_path / "moved")
    assert (tmp_path / "moved" / "best").resolve() == tmp_path / "moved" / "bundles" / "b"
