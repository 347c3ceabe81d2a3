"""Outages of object storage at the driver: trials are fetched when the storage answers again."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pytest
import stamina
from run_store_files import refuse_calls

from whale_ray.errors import InputError
from whale_ray.inference.bundle_transfer.object_store import ObjectStore
from whale_ray.sweep.execution.runners import trial_event_handler
from whale_ray.sweep.execution.runners.trial_event_handler import TrialEventHandler
from whale_ray.sweep.run_store.driver_run_folder import opened_runs

ERRORS = [OSError("no answer"), pyarrow.ArrowInvalid("no answer")]

pytestmark = pytest.mark.usefixtures("store")


def opened(store: ObjectStore, stopping: threading.Event | None = None) -> Any:
    runs = store.url.rpartition("/")[0]
    return opened_runs(runs, "little", fresh=False, say=print, stopping=stopping or threading.Event())


class Driver:
    """The events of a sweep with one trial on another node, whose files can be downloaded once `error` is None."""

    def __init__(self, folder: Path, error: Exception | None) -> None:
        self.error, self.status = error, "running"
        self.done, self.said, self.stopping = list[Any](), list[str](), threading.Event()
        settled = SimpleNamespace(trial="1", status="", result={})
        queue = SimpleNamespace(
            run_again=lambda trial: self.done.append("again"), requeue_alone=lambda trial: False, running=set()
        )
        outcomes = SimpleNamespace(
            settle=lambda trial, *, status, error: (self.done.append(status), settled)[1],
        )
        index = SimpleNamespace(
            trial_folder=lambda trial: folder, reload=lambda trial: SimpleNamespace(status=self.status)
        )
        store = SimpleNamespace(index=index, queue=queue, outcomes=outcomes, objective="recall@1", fetch=self.fetch)
        progress = SimpleNamespace(
            epoch=lambda trial, figures: None, say=self.said.append, ended=lambda trial, **figures: None
        )
        report = SimpleNamespace(changed=lambda: None)
        self.events = TrialEventHandler(store, progress, self.stopping, report)  # type: ignore[arg-type]
        self.events.epoch("1", {"epoch": 2, "elsewhere": True})

    def fetch(self, trial: str, epochs: int) -> None:
        self.done.append(("fetch", epochs))
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("error", ERRORS)
def test_a_trial_that_ends_while_the_storage_is_away_is_recorded_when_it_is_back(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_event_handler, "RETRY_SECONDS", 0.0)
    driver = Driver(tmp_path, error)
    driver.events.ended("1")
    driver.events.settle()
    assert driver.done == [("fetch", 2)] * 2
    driver.error = None
    driver.events.settle()
    driver.events.settle()
    assert driver.done == [("fetch", 2)] * 3 + ["pruned"]
    assert not driver.stopping.is_set()
    assert driver.said == ["the files of trial 1 cannot be downloaded: no answer. They are tried again"]


@pytest.mark.parametrize(("may_retry", "outcome"), [(True, "again"), (False, "failed")])
def test_a_trial_that_loses_its_worker_while_the_storage_is_away_is_not_started_before_it_is_downloaded(
    tmp_path: Path, may_retry: bool, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_event_handler, "RETRY_SECONDS", 0.0)
    driver = Driver(tmp_path, OSError("no answer"))
    driver.events.lost("1", may_retry=may_retry, error="its worker was lost 3 times")
    driver.events.settle()
    assert driver.done == [("fetch", 0)] * 2
    driver.error = None
    driver.events.settle()
    assert driver.done[2:] == [("fetch", 0), outcome]


def test_the_storage_is_asked_again_after_a_pause(tmp_path: Path) -> None:
    driver = Driver(tmp_path, OSError("no answer"))
    driver.events.ended("1")
    for _ in range(10):
        driver.events.settle()
    assert driver.done == [("fetch", 2)]


@pytest.mark.parametrize(
    ("error", "seconds"), [(OSError("no answer"), 0.0), (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 600.0)]
)
def test_a_sweep_ends_if_the_storage_stays_away_or_the_disk_of_the_driver_is_full(
    tmp_path: Path, error: Exception, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_event_handler, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(trial_event_handler, "GIVE_UP_SECONDS", seconds)
    driver = Driver(tmp_path, error)
    driver.events.ended("1")
    driver.events.settle()
    driver.events.settle()
    assert driver.stopping.is_set()
    assert driver.said[-1].endswith("The same command downloads them")
    assert all(one == ("fetch", 2) for one in driver.done)


@pytest.mark.parametrize(
    ("figures", "outcome"),
    [
        ({"epoch": 3, "loss": 0.5, "done": True}, [("fetch", 3), "pruned"]),
        ({"epoch": 3, "no_room": "", "done": True}, [("fetch", 0), "failed"]),
    ],
)
def test_a_trial_without_result_is_pruned_after_its_last_epoch_and_failed_after_its_end(
    tmp_path: Path, figures: dict[str, Any], outcome: list[Any]
) -> None:
    """Tune sets `done` at the epoch at which early stopping ends a trial."""
    driver = Driver(tmp_path, None)
    driver.events.epoch("1", figures | {"elsewhere": True})
    driver.events.ended("1")
    assert driver.done == outcome


def test_a_trial_of_an_interrupted_sweep_that_cannot_be_downloaded_stays_unfinished(tmp_path: Path) -> None:
    driver = Driver(tmp_path, OSError("no answer"))
    driver.stopping.set()
    driver.events.ended("1")
    driver.error = None
    driver.events.settle()
    assert driver.done == [("fetch", 0)]


@pytest.mark.parametrize("error", ERRORS)
def test_the_driver_waits_for_epochs_although_the_store_does_not_answer_meanwhile(
    store: ObjectStore, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(store) as runs:
        store.write("trials/1/epochs.csv", b"epoch,loss\n1,0.5\n")
        listed, calls = ObjectStore.list, list[str]()

        def fail_at_the_second_call(self: ObjectStore, prefix: str = "", **options: Any) -> Any:
            calls.extend([prefix] if prefix == "trials/1/" else [])
            if prefix == "trials/1/" and len(calls) == 2:
                store.write("trials/1/epochs.csv", b"epoch,loss\n1,0.5\n2,0.4\n")
                raise error
            return listed(self, prefix, **options)

        monkeypatch.setattr(ObjectStore, "list", fail_at_the_second_call)
        with stamina.set_testing(True, attempts=3, cap=True):
            runs.fetch_trial("1", 2)
        assert len(calls) == 3
        assert (runs.folder / "little/trials/1/epochs.csv").read_text().endswith("2,0.4\n")


@pytest.mark.parametrize("error", ERRORS)
def test_the_driver_downloads_a_trial_by_a_new_connection(
    store: ObjectStore, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(store) as runs:
        store.write("trials/1/epochs.csv", b"epoch\n1\n")
        with monkeypatch.context() as refusing, stamina.set_testing(True, attempts=3, cap=True):
            calls = refuse_calls("list", 2, refusing, error=error)
            runs.fetch_trial("1")
        assert calls.count("reconnect") >= 2
        assert (runs.folder / "little/trials/1/epochs.csv").exists()


def test_weights_that_cannot_be_downloaded_are_named(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with opened_runs(
        store.url.rpartition("/")[0], "little", fresh=False, say=said.append, stopping=threading.Event()
    ) as runs:
        store.write("trials/1/checkpoint/encoder.safetensors", b"weights")
        runs.fetch_trial("1")
        with monkeypatch.context() as refusing, stamina.set_testing(True, attempts=3):
            refuse_calls("list", 1000, refusing)
            with pytest.raises(InputError, match="must be storage that can be used, but: the credentials have expired"):
                runs.fetch_weights("1")
        runs.fetch_weights("1")
        assert [line for line in said if line.startswith("waiting for")] == [
            f"waiting for {store.url}, from which the weights of trial 1 are downloaded"
        ]
        assert (runs.folder / "little/trials/1/checkpoint/encoder.safetensors").read_bytes() == b"weights"


def test_an_interrupted_sweep_does_not_wait_for_weights(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    stopping = threading.Event()
    with opened(store, stopping) as runs:
        store.write("trials/1/checkpoint/encoder.safetensors", b"weights")
        runs.fetch_trial("1")
        prefixes: list[str] = []

        def interrupt(self: ObjectStore, prefix: str = "", **options: Any) -> Any:
            prefixes.append(prefix)
            if prefixes.count("trials/1/checkpoint/") == 2:
                stopping.set()
            raise OSError("no answer")

        with monkeypatch.context() as refusing, stamina.set_testing(True, attempts=100):
            refusing.setattr(ObjectStore, "list", interrupt)
            with pytest.raises(InputError, match="no answer"):
                runs.fetch_weights("1")
        assert prefixes.count("trials/1/checkpoint/") == 2
