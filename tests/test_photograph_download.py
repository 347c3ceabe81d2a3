"""Photographs at a URL: the download of a node, its disk, and the commands that take a URL."""

from __future__ import annotations

import errno
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from run_store_files import refuse_calls
from typer.testing import CliRunner

from whale_ray.cli import application
from whale_ray.errors import DataError
from whale_ray.inference.bundle_transfer.object_store import ObjectStore
from whale_ray.inference.bundle_transfer.photograph_download import download_photographs, local_photographs


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A table and two photographs behind a file URL, and a node with an empty cache."""
    monkeypatch.setenv("WHALE_RAY_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "bucket"
    (root / "train").mkdir(parents=True)
    for name in ("train.csv", "train/a.jpg", "train/b.jpg", ".hidden", "train/.draft"):
        (root / name).write_text(name)
    yield root
    download_photographs.cache_clear()


def fetch(root: Path) -> Path:
    """The folder of the photographs, as a new process would fetch it."""
    download_photographs.cache_clear()
    return local_photographs(f"file://{root}")


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {".downloaded.json"}


def downloaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    keys: list[str] = []
    download = ObjectStore.download
    monkeypatch.setattr(
        ObjectStore, "download", lambda self, key, path: (keys.append(key), download(self, key, path))[1]
    )
    return keys


def test_a_folder_is_used_where_it_is(tmp_path: Path) -> None:
    assert local_photographs(tmp_path) == local_photographs(str(tmp_path)) == tmp_path


def test_photographs_are_downloaded_once(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = downloaded(monkeypatch)
    folder = fetch(stored)
    assert names(folder) == set(keys) == {"train.csv", "train/a.jpg", "train/b.jpg"}
    assert fetch(stored) == folder
    assert len(keys) == 3


def test_changed_objects_are_downloaded_again_and_deleted_ones_go(
    stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(stored)
    (stored / "train" / "a.jpg").write_text("another photograph")
    (stored / "train" / "b.jpg").unlink()
    keys = downloaded(monkeypatch)
    folder = fetch(stored)
    assert keys == ["train/a.jpg"]
    assert (folder / "train" / "a.jpg").read_text() == "another photograph"
    assert names(folder) == {"train.csv", "train/a.jpg"}


def test_an_interrupted_download_continues(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    download = ObjectStore.download

    def fail_at_b(self: ObjectStore, key: str, path: Path) -> None:
        if key == "train/b.jpg":
            raise OSError("the connection was reset")
        download(self, key, path)

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "download", fail_at_b)
        with pytest.raises(DataError, match="must be storage that can be used, but: the connection was reset"):
            fetch(stored)
    keys = downloaded(monkeypatch)
    assert names(fetch(stored)) == {"train.csv", "train/a.jpg", "train/b.jpg"}
    assert "train/b.jpg" in keys
    assert "train.csv" not in keys


KILLED_AT_THE_LAST_FILE = """
import json, os, sys, time
from pathlib import Path
from whale_ray.inference.bundle_transfer import photograph_download
from whale_ray.inference.bundle_transfer.object_store import ObjectStore
photograph_download._SAVE_SECONDS, photograph_download._CONNECTIONS = 0.0, 1
download, calls = ObjectStore.download, []

def recorded():
    return sum(len(json.loads(path.read_text())) for path in Path(sys.argv[2]).rglob(".downloaded.json"))

def kill_at_the_last(store, key, path):
    calls.append(key)
    if len(calls) == 3:
        limit = time.monotonic() + 30.0
        while recorded() < 2 and time.monotonic() < limit:
            time.sleep(0.01)
        os.kill(os.getpid(), 9)
    download(store, key, path)

ObjectStore.download = kill_at_the_last
photograph_download.local_photographs(sys.argv[1])
"""


def test_a_download_continues_after_its_process_was_killed(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-c", KILLED_AT_THE_LAST_FILE, f"file://{stored}", stored.parent / "cache"]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    keys = downloaded(monkeypatch)
    assert names(fetch(stored)) == {"train.csv", "train/a.jpg", "train/b.jpg"}
    assert len(keys) == 1


@pytest.mark.parametrize("name", ["list", "download"])
def test_a_node_waits_for_storage_that_has_answered_before(
    stored: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    url = f"file://{stored}"
    with monkeypatch.context() as refusing:
        refuse_calls("list", 1, refusing)
        with pytest.raises(DataError, match="but: the credentials have expired"):
            local_photographs(url, seconds=60.0)  # never reached: more likely the credentials than an outage
    (fetch(stored) / "train" / "a.jpg").unlink()
    with monkeypatch.context() as refusing:
        refuse_calls(name, 4, refusing)
        with pytest.raises(DataError, match="but: the credentials have expired"):
            fetch(stored)
        assert names(local_photographs(url, seconds=60.0)) == {"train.csv", "train/a.jpg", "train/b.jpg"}


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "the disk is full"), None])
def test_a_node_does_not_wait_for_what_will_not_come(
    stored: Path, error: OSError | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(stored)
    if error:
        (stored / "train" / "a.jpg").write_text("another photograph")
    else:
        shutil.rmtree(stored)
    download_photographs.cache_clear()
    calls = refuse_calls("download", 1_000_000, monkeypatch, error=error)
    with pytest.raises(DataError, match="the disk is full" if error else "nothing is at"):
        local_photographs(f"file://{stored}", seconds=60.0)
    assert len(calls) == (1 if error else 0)


def test_an_empty_prefix_is_named(stored: Path) -> None:
    with pytest.raises(DataError, match=r"nothing is at file://.*/nowhere\. Check the bucket and the prefix"):
        fetch(stored.with_name("nowhere"))


def test_photographs_larger_than_the_disk_are_refused_before_the_download(
    stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = downloaded(monkeypatch)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1e9))
    with pytest.raises(DataError, match=r"must fit on the disk of .* 1\.0 GB are free\. Make room"):
        fetch(stored)
    assert keys == []


@pytest.mark.integration
def test_audit_takes_photographs_on_s3(
    s3: str, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("AWS_ENDPOINT_URL", s3), ("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WHALE_RAY_CACHE", str(tmp_path / "cache"))
    store = ObjectStore("s3://whales/audited")
    for path in photographs.rglob("*"):
        if path.is_file():
            store.upload(path, str(path.relative_to(photographs)))
    ran = CliRunner().invoke(application, ["audit", "s3://whales/audited"])
    assert ran.exit_code == 0, ran.output
    assert "72 photographs: " in ran.output


@pytest.mark.parametrize(
    "command",
    [
        ["apply-review", "s3://whales/review.csv"],
        ["discover", "gs://whales/photographs"],
        ["export", "s3://whales/drawn", "out", "--format", "coco"],
        ["identify", "bundle", "s3://whales/a.jpg"],
    ],
)
def test_other_commands_refuse_a_url(command: list[str]) -> None:
    ran = CliRunner().invoke(application, command)
    assert ran.exit_code == 2
    assert "this command takes local files and folders, but got " in ran.output
    assert "://whales/" in ran.output
