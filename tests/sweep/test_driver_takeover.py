"""A driver that was suspended until another one has taken over its run folder: it changes nothing in the store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from run_store_files import store_on_disk, use_empty_cache, write_files

from whale_ray.inference.bundle_transfer.object_store import ObjectStore
from whale_ray.sweep.config.sweep_spec import Sweep
from whale_ray.sweep.execution.driver import run_sweep
from whale_ray.sweep.execution.runners import sweep_session
from whale_ray.sweep.execution.runners.sweep_result import SweepResult
from whale_ray.sweep.run_store import driver_lease, publisher
from whale_ray.sweep.run_store.driver_lease import DriverLease
from whale_ray.sweep.run_store.driver_run_folder import OpenedRuns, opened_runs
from whale_ray.sweep.run_store.mirror import RunMirror
from whale_ray.sweep.run_store.publisher import Publisher

RUN = {"sweep.yaml": "name: a", "identity.json": '{"id": "a"}'}
BEGUN = RUN | {"leaderboard.csv": "of A", "trials/1/checkpoint/encoder.safetensors": "weights"}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    use_empty_cache(tmp_path, monkeypatch)
    monkeypatch.setattr(driver_lease, "EXPIRE_SECONDS", 0.2)
    monkeypatch.setattr(driver_lease, "RENEW_SECONDS", 1000.0)  # as if the driver was suspended
    monkeypatch.setattr(publisher, "EVERY_SECONDS", 1000.0)
    return store_on_disk(tmp_path)


@contextmanager
def suspended(store: ObjectStore, said: list[str], stopping: threading.Event) -> Iterator[OpenedRuns]:
    """Yield the run folder of a driver that has published a run."""
    runs = store.url.rpartition("/")[0]
    with opened_runs(runs, "little", fresh=False, say=said.append, stopping=stopping) as opened:
        write_files(opened.folder / "little", BEGUN)
        opened.publish()
        yield opened


@contextmanager
def other_driver(store: ObjectStore) -> Iterator[DriverLease]:
    """Yield the lease of another driver that has taken over and has published a leaderboard."""
    lease = DriverLease(store, say=print, on_lost=lambda: None)
    lease.acquire()
    store.write("leaderboard.csv", b"of B, the other driver")
    try:
        yield lease
    finally:
        lease.release()


def conclude(opened: OpenedRuns) -> None:
    """Write and delete what a driver does at its end."""
    folder = write_files(opened.folder / "little", {"leaderboard.csv": "of A, at its end", "report.html": "A"})
    (folder / "trials/1/checkpoint/encoder.safetensors").unlink()


@pytest.mark.parametrize("awakes", ["beside its successor", "after its successor", "for its end only"])
def test_a_driver_that_was_suspended_changes_nothing_of_its_successor(store: ObjectStore, awakes: str) -> None:
    said, stopping = list[str](), threading.Event()
    with suspended(store, said, stopping) as opened:
        with other_driver(store) as successor:
            conclude(opened)
            if awakes == "beside its successor":
                opened.publish()
                assert stopping.is_set()
                assert successor.is_held()
        if awakes == "after its successor":
            opened.publish()
            assert stopping.is_set()
    assert store.read("leaderboard.csv") == b"of B, the other driver"
    assert set(store.list()) == set(BEGUN)
    assert (opened.is_taken_over, opened.unpublished) == (True, [])
    assert f"another driver has taken over {store.url}: nothing was published after that" in said[-1]
    assert (opened.folder / "little/report.html").exists()


def test_a_sweep_whose_run_folder_was_taken_over_is_interrupted_and_names_no_url(
    store: ObjectStore, write_sweep: Callable[[], Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_session(sweep: Sweep, opened: OpenedRuns, *arguments: Any, **options: Any) -> SweepResult:
        folder = write_files(opened.folder / "little", BEGUN)
        opened.publish()
        with other_driver(store):
            conclude(opened)
        return SweepResult(folder, pd.DataFrame({"status": ["finished"]}), folder, folder / "report.html", False)

    monkeypatch.setattr(sweep_session, "run_session", run_session)
    result = run_sweep(write_sweep(), runs=store.url.rpartition("/")[0], in_process=True)
    assert (result.exit_code, result.url) == (130, None)


def test_a_driver_without_a_successor_publishes_its_end(store: ObjectStore) -> None:
    said, stopping = list[str](), threading.Event()
    with suspended(store, said, stopping) as opened:
        conclude(opened)
    assert (said, opened.is_taken_over) == ([], False)
    assert store.read("leaderboard.csv") == b"of A, at its end"
    assert "trials/1/checkpoint/encoder.safetensors" not in store.list()


def test_an_upload_that_was_suspended_ends_before_its_next_file(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.time", lambda: clock[0])
    mirror = RunMirror(store, write_files(tmp_path / "here", dict.fromkeys("abc", "")))
    upload, may_publish = store.upload, [True]

    def upload_and_sleep(path: Path, key: str) -> object:
        clock[0] += 30.0
        may_publish[0] = False
        return upload(path, key)

    monkeypatch.setattr(store, "upload", upload_and_sleep)
    uploader = Publisher(mirror, say=print, may_publish=lambda: may_publish[0])
    assert (uploader.finish(), uploader.is_superseded) == ([], True)
    assert set(store.list()) == {"a"}
