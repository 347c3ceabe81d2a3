"""Paths that cannot be used: every command ends with one message and exit code 2, never with a traceback."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_sweep import SWEEP
from typer.testing import CliRunner

from whale_ray.cli import application
from whale_ray.file_errors import explain_file_error, is_inside, short_reason
from whale_ray.serving.gallery.enrolled_pictures import EnrolledPicture
from whale_ray.serving.gallery.enrolment_store import EnrolmentStore

pytestmark = pytest.mark.integration

BAD = ("nowhere/x", "file", "folder", "loop", "loop/x", "file/x", "x" * 300)
COMMANDS = (
    "audit BAD",
    "audit data --set data.boxes=BAD",
    "audit data --set data.table=BAD",
    "audit data --set data.table=../BAD",
    "audit data --set data.image_folder=../BAD",
    "apply-review BAD",
    "apply-review BAD --data data",
    "apply-review review.csv --data BAD",
    "report BAD",
    "report BAD --json",
    "submit BAD data/test out.csv",
    "identify BAD one.jpg",
    "serve BAD",
    "deploy BAD",
    "discover BAD",
    "discover data/test --bundle BAD",
    "discover data/test --labels BAD",
    "discover data/test --weights BAD",
    "discover data/test --set data.boxes=BAD",
    "export-enrolled sqlite:///BAD data/train out.csv",
    "sweep BAD",
    "sweep sweep.yaml --data BAD",
)
# Of a path that is to be written: a folder, or a file in a folder, may be missing.
WRITTEN = (
    "init quickstart --to BAD",
    "synth BAD --individuals 2 --images 6",
    "export-enrolled sqlite:///enrolled.db data/train BAD",
    "export-enrolled sqlite:///enrolled.db BAD out.csv",
    "sweep sweep.yaml --runs BAD",
)


@pytest.fixture(scope="module")
def workspace(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs, a sweep file, a review and enrolments, beside paths that cannot be used."""
    root = tmp_path_factory.mktemp("bad_paths")
    shutil.copytree(photographs, root / "data")
    (root / "sweep.yaml").write_text(SWEEP.replace("ROOT", "data"))
    (root / "review.csv").write_text("kind,image,individual,confirm\n")
    store = EnrolmentStore(f"sqlite:///{root}/enrolled.db")
    store.enrol("ann", [EnrolledPicture("0" * 64, "met.jpg", b"data", b"small", np.ones(4))], bundle="b")
    store.close()
    (root / "file").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    (root / "folder").mkdir()
    (root / "folder" / "something").write_text("else")
    (root / "loop").symlink_to("other loop")
    (root / "other loop").symlink_to("loop")
    return root


def refusal(line: str, bad: str) -> str:
    """Return the message of a command that is refused."""
    result = CliRunner().invoke(application, [word.replace("BAD", bad) for word in line.split(" ")])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("whale_ray: ")
    return result.stderr


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad[:10])
def test_a_path_that_cannot_be_read_is_one_message(bad: str, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    before = {path.name for path in workspace.iterdir()}
    for line in COMMANDS:
        assert bad[:50] in refusal(line, bad), line
    assert {path.name for path in workspace.iterdir()} <= before | {"runs"}


@pytest.mark.parametrize("bad", ["file/x", "loop/x", "x" * 300, "loop", "folder"], ids=lambda bad: bad[:10])
def test_a_path_that_cannot_be_written_is_one_message(
    bad: str, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    for line in WRITTEN:
        if bad == "folder" and ("--runs" in line or "BAD out.csv" in line):
            continue  # these ask for a folder
        if bad == "loop" and line.endswith("train BAD"):
            continue  # a file replaces the link
        assert bad.removesuffix("/x")[:50] in refusal(line, bad), line


@pytest.mark.parametrize("bad", ["file", "loop", "file/x"])
def test_a_cache_that_cannot_be_written_names_its_variable(
    bad: str, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    monkeypatch.setenv("WHALE_RAY_CACHE", bad)
    assert "name another folder in WHALE_RAY_CACHE" in refusal("audit data", "")


def test_a_photograph_that_is_a_link_in_a_circle_is_set_aside(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = shutil.copytree(photographs, tmp_path / "data")
    image = root / "train" / pd.read_csv(root / "train.csv")["Image"][0]
    image.unlink()
    image.symlink_to(image.name)
    result = CliRunner().invoke(application, ["audit", str(root)])
    assert result.exit_code == 0, result.exception
    assert f"{image.name}: unreadable, Too many levels of symbolic links" in result.output


@pytest.mark.parametrize("content", [None, b"", b"no database at all", b"SQLITE"])
def test_enrolments_are_exported_from_an_existing_store_only(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "enrolled.db"
    if content == b"SQLITE":
        sqlite3.connect(path).execute("CREATE TABLE other (id INTEGER)").connection.close()
    elif content is not None:
        path.write_bytes(content)
    before = path.read_bytes() if path.exists() else None
    refusal(f"export-enrolled sqlite:///{path} {tmp_path}/train {tmp_path}/review.csv", "")
    assert (path.read_bytes() if path.exists() else None) == before
    assert not (tmp_path / "review.csv").exists()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG])
def test_a_message_names_the_path_the_reason_and_a_remedy(number: int) -> None:
    message = explain_file_error(OSError(number, os.strerror(number), "some path"))
    assert message is not None
    assert message.startswith(f"some path must be usable, but: {os.strerror(number)}. ")
    assert explain_file_error(OSError(number, os.strerror(number))) is None
    assert explain_file_error(OSError(errno.EBADF, "a bug of the program", "some path")) is None


def test_links_decide_what_lies_inside_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "out").symlink_to(tmp_path / "file")
    (tmp_path / "folder" / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to("folder")
    inside = {"folder/new": True, "folder/loop": True, "link/x": True, "folder/out": False, "folder/../x": False}
    assert {name: is_inside(tmp_path / name, tmp_path / "folder") for name in inside} == inside


def test_a_short_reason_has_neither_number_nor_path(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere") as caught:
        (tmp_path / "nowhere").read_bytes()
    assert short_reason(caught.value) == "No such file or directory"
    assert short_reason(ValueError("no picture")) == "no picture"
    assert short_reason(OSError("no number")) == "no number"
