"""Mirrors of run folders and leases of drivers, on a disk in place of object storage; by pyarrow and by fsspec."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from run_store_files import store_on_disk, use_empty_cache, write_files
from waiting import wait_until

from whale_ray.errors import InputError
from whale_ray.inference.bundle_transfer.object_store import ObjectStore
from whale_ray.sweep.run_store import driver_lease
from whale_ray.sweep.run_store.driver_lease import DriverLease, LeaseLostError
from whale_ray.sweep.run_store.driver_run_folder import opened_runs
from whale_ray.sweep.run_store.mirror import RunMirror
from whale_ray.sweep.run_store.run_download import local_run

EXPIRE_SECONDS = driver_lease.EXPIRE_SECONDS  # before the tests change it
FILES = {"sweep.yaml": "name: a", "trials/1/settings.json": "{}", "trials/1/result.json": "{}", "bundles/b/x": "1"}


@pytest.fixture(params=["file", "local"])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> ObjectStore:
    return store_on_disk(tmp_path, scheme=request.param)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_empty_cache(tmp_path, monkeypatch)
    monkeypatch.setattr(driver_lease, "EXPIRE_SECONDS", 0.4)


def written(folder: Path, files: dict[str, str] = FILES) -> Path:
    return write_files(folder, files)


def opened(url: str, name: str = "little", *, fresh: bool = False, said: list[str] | None = None) -> Any:
    lines = [] if said is None else said
    return opened_runs(url, name, fresh=fresh, say=lines.append, stopping=threading.Event())


def test_a_database_that_cannot_be_copied_is_an_error_of_the_storage_and_leaves_no_copy(
    store: ObjectStore, tmp_path: Path
) -> None:
    here = written(tmp_path / "here", {**FILES, "study.db": "no database " * 200})
    with pytest.raises(OSError, match=r"study\.db cannot be copied: file is not a database"):
        RunMirror(store, here).push()
    assert not list(here.glob(".study.db*"))


def test_another_mirror_of_the_store_has_the_same_files_link_and_database(store: ObjectStore, tmp_path: Path) -> None:
    here = written(tmp_path / "here", {**FILES, "lock": "1", ".draft": "2", "study.db-journal": "3"})
    (here / "best").symlink_to("bundles/b")
    with closing(sqlite3.connect(here / "study.db")) as database:
        database.execute("create table found (x)")
        database.commit()
        RunMirror(store, here).push()
    there = RunMirror(store, tmp_path / "there")
    shown: list[int] = []
    there.pull(on_start=lambda files, size: shown.append(files))
    assert {name: (there.folder / name).read_text() for name in FILES} == FILES
    assert os.readlink(there.folder / "best") == "bundles/b"
    assert shown == [len(FILES) + 2]
    with closing(sqlite3.connect(there.folder / "study.db")) as database:
        assert database.execute("select name from sqlite_master").fetchall() == [("found",)]
    assert set(store.list()) == {*FILES, "best", "study.db"}
    assert there.changes().changed == []


def test_results_are_published_after_the_files_they_speak_of(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = written(
        tmp_path / "here", dict.fromkeys(("trials/1/result.json", "trials/1/zeta", "b/bundle.json", "b/z"), "")
    )
    keys: list[str] = []
    upload = store.upload
    monkeypatch.setattr(store, "upload", lambda path, key: (keys.append(key), upload(path, key))[1])
    RunMirror(store, here).push()
    assert keys.index("trials/1/zeta") < keys.index("trials/1/result.json")
    assert keys.index("b/z") < keys.index("b/bundle.json")


def test_only_changes_are_uploaded_and_deletions_follow(store: ObjectStore, tmp_path: Path) -> None:
    mirror = RunMirror(store, written(tmp_path / "here"))
    mirror.push()
    (mirror.folder / "sweep.yaml").write_text("name: other")
    (mirror.folder / "bundles/b/x").unlink()
    assert RunMirror(store, mirror.folder).changes().changed == ["sweep.yaml"]
    mirror.push()
    assert store.read("sweep.yaml") == b"name: other"
    assert "bundles/b/x" not in store.list()


def test_a_file_that_was_not_uploaded_yet_is_kept_when_the_sweep_continues(store: ObjectStore, tmp_path: Path) -> None:
    mirror = RunMirror(store, written(tmp_path / "here"))
    mirror.push()
    (mirror.folder / "trials/1/result.json").write_text('{"status": "finished"}')
    again = RunMirror(store, mirror.folder)
    again.pull()
    assert again.changes().changed == ["trials/1/result.json"]


def test_what_another_machine_has_published_or_deleted_replaces_the_mirror(store: ObjectStore, tmp_path: Path) -> None:
    old = RunMirror(store, written(tmp_path / "old"))
    old.push()
    other = RunMirror(store, tmp_path / "other")
    other.pull()
    (other.folder / "trials/1/result.json").write_text('{"longer": 1}')
    (other.folder / "bundles/b/x").unlink()
    other.push()
    RunMirror(store, old.folder).pull()
    assert (old.folder / "trials/1/result.json").read_text() == '{"longer": 1}'
    assert not (old.folder / "bundles/b/x").exists()


def test_an_emptied_store_gets_every_file_again(store: ObjectStore, tmp_path: Path) -> None:
    RunMirror(store, written(tmp_path / "here")).push()
    for key in store.list():
        store.delete(key)
    again = RunMirror(store, tmp_path / "here")
    again.pull()
    again.push()
    assert set(store.list()) == set(FILES)


def test_weights_that_were_left_out_are_downloaded_on_demand_and_deleted_with_their_folder(
    store: ObjectStore, tmp_path: Path
) -> None:
    weights = {f"trials/{trial}/checkpoint/encoder.safetensors": trial for trial in "12"}
    RunMirror(store, written(tmp_path / "there", FILES | weights)).push()
    mirror = RunMirror(store, tmp_path / "here")
    mirror.pull(weights=False)
    first, second = (mirror.folder / name for name in weights)
    assert (first.exists(), second.exists(), mirror.has_left_out("trials/1/")) == (False, False, True)
    mirror.push()
    assert set(weights) <= set(store.list())
    again = RunMirror(store, mirror.folder)
    again.pull("trials/1/checkpoint/")
    assert (first.read_text(), second.exists(), again.has_left_out("trials/1/")) == ("1", False, False)
    shutil.rmtree(second.parent)
    again.push()
    assert set(weights) & set(store.list()) == {"trials/1/checkpoint/encoder.safetensors"}


def lease(store: ObjectStore, lost: list[str] | None = None) -> DriverLease:
    return DriverLease(store, say=lambda line: None, on_lost=lambda: (lost or []).append("lost"))


def test_a_second_driver_is_refused_while_the_first_renews_its_lease(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_lease, "RENEW_SECONDS", 0.05)
    first = lease(store)
    first.acquire()
    with pytest.raises(
        InputError, match=rf"one driver at a time .* process {os.getpid()} on .* Wait for it or stop it"
    ):
        lease(store).acquire()
    first.release()
    second = lease(store)
    second.acquire()
    second.release()
    assert not store.list(driver_lease.FOLDER)


def test_a_lease_expires_when_its_driver_has_failed_to_renew_it_several_times() -> None:
    assert EXPIRE_SECONDS >= 4.0 * driver_lease.RENEW_SECONDS


def test_the_lease_of_a_silent_driver_expires_and_its_driver_notices(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_lease, "RENEW_SECONDS", 1000.0)
    first, second = lease(store), lease(store)
    store.write("sweep.yaml", b"")
    first.acquire()
    second.acquire()
    with pytest.raises(LeaseLostError):
        first.renew()
    second.renew()
    first.release()
    second.release()


def test_a_driver_whose_store_was_emptied_keeps_its_lease(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_lease, "RENEW_SECONDS", 1000.0)
    holder = lease(store)
    holder.acquire()
    for key in store.list():
        store.delete(key)
    holder.renew()
    assert store.list(driver_lease.FOLDER)
    holder.release()


def test_the_lease_of_a_killed_driver_of_this_machine_is_free_at_once(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_lease, "EXPIRE_SECONDS", 1000.0)
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    monkeypatch.setattr(os, "getpid", lambda: int(ended.stdout))
    killed = lease(store)
    killed.acquire()
    monkeypatch.undo()
    said: list[str] = []
    DriverLease(store, say=said.append, on_lost=lambda: None).acquire()
    assert said == []


def write_foreign_lease(store: ObjectStore, *, beats: int) -> None:
    holder = {"pid": 1, "host": "b", "machine": "b", "beats": beats}
    store.write(f"{driver_lease.FOLDER}/other", json.dumps(holder).encode())


def test_a_lease_is_lost_to_another_driver_that_renews_its_own(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_lease, "RENEW_SECONDS", 1000.0)
    holder = lease(store)
    holder.acquire()
    for beats in (1, 2):
        write_foreign_lease(store, beats=beats)
        holder.renew()
    write_foreign_lease(store, beats=3)
    with pytest.raises(LeaseLostError):
        holder.renew()
    holder.release()


def test_a_lease_outlasts_what_a_killed_driver_on_another_machine_has_left(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_lease, "RENEW_SECONDS", 1000.0)
    holder = lease(store)
    holder.acquire()
    write_foreign_lease(store, beats=1)
    for _ in range(10):
        holder.renew()
    holder.release()


def interrupt_after_write(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let the next call that lists others' leases raise."""

    def raise_error(self: DriverLease) -> list[str]:
        raise error

    monkeypatch.setattr(DriverLease, "_others", raise_error)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("gone")])
def test_a_driver_that_is_interrupted_while_it_asks_leaves_no_lease(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    interrupt_after_write(monkeypatch, error)
    with pytest.raises(type(error)):
        lease(store).acquire()
    assert not store.list(driver_lease.FOLDER)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt()])
def test_a_lease_that_is_written_after_its_driver_gave_up_is_deleted(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, error: BaseException | None
) -> None:
    landed, write, may_land = list[str](), store.write, threading.Event()

    def write_late(key: str, content: bytes) -> None:
        may_land.wait(60)
        write(key, content)
        landed.append(key)

    def interrupt(self: Future[None], timeout: float) -> None:
        raise error or AssertionError

    monkeypatch.setattr(store, "write", write_late)
    monkeypatch.setattr(driver_lease, "WRITE_SECONDS", 0.05)
    with monkeypatch.context() as patch:
        if error:
            patch.setattr(Future, "result", interrupt)
        with pytest.raises((TimeoutError, KeyboardInterrupt)):
            lease(store).acquire()
    may_land.set()
    wait_until(lambda: bool(landed) and not store.list(driver_lease.FOLDER), rest=0.01)


def test_a_local_folder_is_used_as_it_is(tmp_path: Path) -> None:
    with opened(str(tmp_path / "runs")) as runs:
        assert runs.folder == tmp_path / "runs"
        assert runs.remote is None
        runs.fetch_trial("1")
    assert local_run(tmp_path / "runs", say=print) == tmp_path / "runs"


def test_fresh_keeps_the_old_run_beside_the_new_one(store: ObjectStore, tmp_path: Path) -> None:
    runs = store.url.rpartition("/")[0]
    with opened(runs) as first:
        written(first.folder / "little")
    with opened(runs, fresh=True) as second:
        assert not any((second.folder / "little").iterdir())
        written(second.folder / "little", {"sweep.yaml": "name: b"})
    assert set(store.list()) == {"sweep.yaml"}
    (aside,) = {key.split("/")[0] for key in ObjectStore(runs).list()} - {"little"}
    assert aside.startswith("little.")
    assert ObjectStore(f"{runs}/{aside}").read("sweep.yaml") == b"name: a"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s4://whales/runs", "begins with s3://, gs://, file://, but got s4://whales/runs/little"),
        ("s3:///runs", "names a bucket, s3://BUCKET/PATH, but got s3:///runs/little"),
    ],
)
def test_an_address_that_is_no_store_is_refused(address: str, message: str) -> None:
    with pytest.raises(InputError, match=message), opened(address):
        raise AssertionError


def test_a_place_with_other_files_is_refused(store: ObjectStore, tmp_path: Path) -> None:
    store.write("holiday.jpg", b"")
    with pytest.raises(InputError, match=r"holds something else \(holiday.jpg\)"), opened(store.url.rpartition("/")[0]):
        raise AssertionError
    with pytest.raises(InputError, match=r"a run folder holds sweep.yaml, but .*little does not"):
        local_run(store.url, say=print)


def test_files_that_a_store_refuses_are_named_and_uploaded_the_next_time(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, said = store.url.rpartition("/")[0], list[str]()

    def refuse(self: ObjectStore, path: Path, key: str) -> str:
        raise OSError("AWS Error NO_SUCH_BUCKET")

    with monkeypatch.context() as broken:
        broken.setattr(ObjectStore, "upload", refuse)
        with opened(runs, said=said) as first:
            written(first.folder / "little")
    assert set(first.unpublished) == set(FILES)
    assert "4 files are not in" in said[-1]
    assert "NO_SUCH_BUCKET" in said[0]
    with opened(runs) as second:
        assert (second.folder / "little/sweep.yaml").exists()
    assert second.unpublished == []
    assert set(store.list()) == set(FILES)
