"""Files of trials on nodes that do not see the driver's mirror: fetched, claimed, published; heartbeats."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from run_store_files import refuse_calls, write_files
from waiting import wait_until

from whale_ray.atomic_files import write_atomically
from whale_ray.inference.bundle_transfer.object_store import ObjectStore
from whale_ray.sweep.run_store import publisher, trial_files
from whale_ray.sweep.run_store.driver_run_folder import RemoteRun, opened_runs
from whale_ray.sweep.run_store.mirror import RunMirror
from whale_ray.sweep.run_store.publisher import Publisher
from whale_ray.sweep.run_store.run_download import mirror_folder
from whale_ray.sweep.run_store.trial_claim import TrialClaim
from whale_ray.sweep.run_store.trial_files import published_trial

FILES = {"sweep.yaml": "name: a", "trials/1/settings.json": "{}"}

pytestmark = pytest.mark.usefixtures("store")


def written(folder: Path, files: dict[str, str] = FILES) -> Path:
    return write_files(folder, files)


def opened(url: str) -> Any:
    return opened_runs(url, "little", fresh=False, say=print, stopping=threading.Event())


def elsewhere(remote: RemoteRun | None) -> RemoteRun:
    """The run folder as a node has it that does not see the driver's mirror."""
    assert remote is not None
    return dataclasses.replace(remote, folder=Path("/not_here"))


def test_a_trial_on_another_node_is_published_before_its_end_is_reported(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, reported = store.url.rpartition("/")[0], list[dict[str, Any]]()
    with opened(runs) as driver:
        folder = written(
            driver.folder / "little", {"sweep.yaml": "", "trials/1/settings.json": "{}", "local-sift.npz": ""}
        )
        with published_trial(driver.remote, folder, "1", reported.append) as place:
            assert place.folder == folder
            assert place.report == reported.append
        RunMirror(store, folder).push()
        monkeypatch.setenv("WHALE_RAY_CACHE", str(tmp_path / "other_node"))

        def report_to_driver(figures: dict[str, Any]) -> None:
            reported.append(figures | {"published": "trials/1/result.json" in store.list()})

        with published_trial(elsewhere(driver.remote), folder, "1", report_to_driver) as place:
            assert place.folder == mirror_folder(store.url)
            assert (place.folder / "local-sift.npz").exists()
            place.report({"epoch": 1})
            written(place.folder, {"trials/1/result.json": '{"status": "finished"}', "trials/1/checkpoint/w": "w"})
            place.report({"done": True})
        driver.fetch_trial("1")
        assert (folder / "trials/1/checkpoint/w").read_text() == "w"
    assert [one["published"] for one in reported] == [False, True]
    assert all(one["elsewhere"] for one in reported)


def test_a_trial_whose_files_the_store_refuses_says_so(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(Path(store.url.removeprefix("file://")), FILES)
    reported: list[dict[str, Any]] = []
    remote = RemoteRun(store.url, "session", tmp_path / "not_here")
    with published_trial(remote, remote.folder, "1", reported.append) as place:
        (place.folder / "trials/1/result.json").write_text('{"status": "finished"}')
        monkeypatch.setattr(ObjectStore, "upload", lambda *_: (_ for _ in ()).throw(OSError("gone")))
        monkeypatch.setattr(trial_files, "WAIT_SECONDS", 0.2)
        place.report({"done": True})
    assert "takes no files; 1 files of the trial wait in" in reported[0]["no_room"]


def trial_on_a_node(store: ObjectStore, cache: Path, reported: list[Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Trial 1 on a node with a cache of its own that does not see the driver's mirror."""
    monkeypatch.setenv("WHALE_RAY_CACHE", str(cache))
    remote = RemoteRun(store.url, "session", Path("/not_here"))
    return published_trial(remote, remote.folder, "1", reported.append)


def test_a_worker_that_comes_back_publishes_nothing_over_the_one_that_replaced_it(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(Path(store.url.removeprefix("file://")), {"trials/1/settings.json": "{}"})
    monkeypatch.setattr(publisher, "EVERY_SECONDS", 0.02)
    reported: list[Any] = []
    with trial_on_a_node(store, tmp_path / "cut_off", reported, monkeypatch) as old:
        written(old.folder, {"trials/1/epochs.csv": "epoch\n1\n"})
        old.report({"epoch": 1})
        with trial_on_a_node(store, tmp_path / "new", reported, monkeypatch) as new:
            written(new.folder, {"trials/1/epochs.csv": "epoch\n1\n2\n", "trials/1/result.json": "{}"})
            new.report({"done": True})
        written(old.folder, {"trials/1/epochs.csv": "epoch\n1\n0\n", "trials/1/result.json": "bad"})
        with pytest.raises(SystemExit, match="another worker has taken over"):
            [old.report({"epoch": epoch}) for epoch in (2, 3)]
    assert store.read("trials/1/epochs.csv") == b"epoch\n1\n2\n"
    assert store.read("trials/1/result.json") == b"{}"
    assert not any(key.endswith(".worker") for key in store.list())


def test_an_epoch_is_reported_when_the_epoch_before_it_is_published(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "EVERY_SECONDS", 1000.0)
    mirror = RunMirror(store, tmp_path / "here")
    uploader = Publisher(mirror, prefix="trials/1/", say=print)
    for epoch in range(1, 6):
        rows = "".join(f"{row}\n" for row in range(1, epoch + 1))
        write_atomically(mirror.folder / "trials/1/epochs.csv", f"epoch\n{rows}")
        uploader.publish_epoch()
        published = store.read("trials/1/epochs.csv").decode() if epoch > 1 else ""
        assert epoch == 1 or f"\n{epoch - 1}\n" in published
    assert uploader.finish() == []
    assert store.read("trials/1/epochs.csv").decode().endswith("\n5\n")


def test_a_trial_on_a_node_reports_an_epoch_when_the_epoch_before_it_is_published(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "EVERY_SECONDS", 1000.0)
    store.write("trials/1/settings.json", b"{}")
    with trial_on_a_node(store, tmp_path / "node", [], monkeypatch) as place:
        for epoch in (1, 2):
            write_atomically(place.folder / f"trials/1/state-{epoch}", "")
            place.report({"epoch": epoch})
        assert "trials/1/state-1" in store.list()


def test_a_store_that_takes_no_files_does_not_stop_the_training(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "EVERY_SECONDS", 1000.0)
    monkeypatch.setattr(ObjectStore, "upload", lambda *_: (_ for _ in ()).throw(OSError("gone")))
    uploader = Publisher(RunMirror(store, written(tmp_path / "here")), say=lambda line: None)
    for _ in range(5):
        uploader.publish_epoch()
    assert set(uploader.finish()) == set(FILES)


def test_a_refused_upload_is_tried_again_with_fresh_credentials_while_the_sweep_runs(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "EVERY_SECONDS", 0.01)
    calls = refuse_calls("upload", 2, monkeypatch)
    said: list[str] = []
    uploader = Publisher(RunMirror(store, written(tmp_path / "here")), say=said.append)
    wait_until(lambda: set(store.list()) == set(FILES), rest=0.01)
    assert uploader.finish() == []
    assert calls[:5] == ["upload", "reconnect", "upload", "reconnect", "upload"]
    assert ["takes no files: the credentials have expired" in said[0], "takes files again" in said[1]] == [True, True]


def test_a_refused_upload_is_tried_again_when_the_sweep_has_ended(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "EVERY_SECONDS", 1000.0)
    monkeypatch.setattr(publisher, "FINISH_SECONDS", 60.0)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    calls = refuse_calls("upload", 2, monkeypatch)
    uploader = Publisher(RunMirror(store, written(tmp_path / "here")), say=print)
    assert uploader.finish() == []
    assert set(store.list()) == set(FILES)
    assert calls[:5] == ["upload", "reconnect", "upload", "reconnect", "upload"]


def test_a_trial_begins_although_the_store_does_not_answer_at_first(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("trials/1/settings.json", b"{}")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    calls = refuse_calls("list", 2, monkeypatch)
    with trial_on_a_node(store, tmp_path / "node", [], monkeypatch) as place:
        assert (place.folder / "trials/1/settings.json").exists()
    assert calls[calls.index("list") :][:4] == ["list", "reconnect", "list", "reconnect"]


def test_a_claim_outlasts_an_emptied_store_and_is_passed_on_to_the_workers_of_the_trial(store: ObjectStore) -> None:
    store.write("trials/1/settings.json", b"{}")
    first = TrialClaim(store, "trials/1/")
    first.take()
    passed_on = TrialClaim(store, "trials/1/", token=first.token)
    passed_on.take()
    passed_on.release()
    assert first.is_held()
    assert passed_on.is_held()
    store.delete("trials/1/settings.json")
    store.delete("trials/1/.worker")
    assert first.is_held()
    store.write("trials/1/settings.json", b"{}")
    assert not first.is_held()


SIGTERM_WORKER = """
import os, signal, sys, threading, time
from pathlib import Path
from whale_ray.sweep.run_store import publisher
from whale_ray.sweep.run_store.driver_run_folder import RemoteRun
from whale_ray.sweep.run_store.trial_files import published_trial
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as Ray's workers have it
publisher.EVERY_SECONDS = 1000.0
remote = RemoteRun(sys.argv[1], "session", Path("/not_here"))

def train():  # in a thread, which Ray leaves as it is when the process gets SIGTERM
    with published_trial(remote, remote.folder, "1", print) as place:
        (place.folder / "trials/1/state").write_text("epoch 1")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(600)

threading.Thread(target=train, daemon=True).start()
time.sleep(600)
"""


@pytest.mark.integration
def test_a_worker_publishes_its_last_epoch_when_it_gets_sigterm(store: ObjectStore) -> None:
    store.write("trials/1/settings.json", b"{}")
    subprocess.run([sys.executable, "-c", SIGTERM_WORKER, store.url], check=False)
    assert store.read("trials/1/state") == b"epoch 1"


def test_heartbeats_of_a_trial_on_another_node_name_its_process_and_are_rare(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(Path(store.url.removeprefix("file://")), {"trials/1/settings.json": "{}"})
    reported: list[Any] = []
    with trial_on_a_node(store, tmp_path / "node", reported, monkeypatch) as place:
        for _ in range(5):
            place.on_beat({"pid": 7, "node": "ab"})
    assert reported == [{"heartbeat": {"pid": 7, "node": "ab"}, "elsewhere": True}]


@pytest.mark.parametrize(("minutes", "seconds"), [(30.0, 15.0), (None, 15.0), (0.2, 3.0)])
def test_heartbeats_are_four_times_as_frequent_as_the_search_for_stalled_trials(
    store: ObjectStore, minutes: float | None, seconds: float
) -> None:
    with opened(store.url.rpartition("/")[0]) as driver:
        remote = driver.watched(stall_minutes=minutes)
    assert remote.heartbeat_seconds == pytest.approx(seconds)


def test_the_epochs_of_a_trial_that_was_stopped_are_awaited(store: ObjectStore, tmp_path: Path) -> None:
    """Early stopping ends a trial at an epoch whose files its worker is still uploading."""
    with opened_runs(
        store.url.rpartition("/")[0], "little", fresh=False, say=print, stopping=threading.Event()
    ) as runs:
        store.write("trials/1/epochs.csv", b"epoch,loss\n1,0.5\n")
        later = threading.Timer(0.3, store.write, ("trials/1/epochs.csv", b"epoch,loss\n1,0.5\n2,0.4\n"))
        later.start()
        runs.fetch_trial("1", 2)
        assert (runs.folder / "little/trials/1/epochs.csv").read_text().endswith("2,0.4\n")
        later.join()
