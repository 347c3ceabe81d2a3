"""Outages of object storage when a trial on another node ends: its files are uploaded when the storage is back."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from run_store_files import refuse_calls, write_files

from whale_ray.inference.bundle_transfer.object_store import ObjectStore
from whale_ray.sweep.run_store import publisher, trial_files
from whale_ray.sweep.run_store.driver_run_folder import RemoteRun
from whale_ray.sweep.run_store.trial_files import (
    TrialPlace,
    UnpublishedTrialError,
    UnreachableStoreError,
    published_trial,
)
from whale_ray.sweep.trial_reports import UNFIT_NODE
from whale_ray.sweep.trials.distributed.distributed_run import is_lost_worker
from whale_ray.sweep.trials.worker import run_trial_on_ray

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

pytestmark = pytest.mark.usefixtures("store")


def upload_fails(monkeypatch: pytest.MonkeyPatch, error: Exception) -> list[Exception]:
    """Let all uploads fail with the first error of the returned list, which counts the calls behind it."""
    errors, upload = [error], ObjectStore.upload

    def fail(self: ObjectStore, path: Path, key: str) -> Any:
        if errors:
            errors.append(errors[0])
            raise errors[0]
        return upload(self, path, key)

    monkeypatch.setattr(ObjectStore, "upload", fail)
    return errors


@pytest.fixture
def remote(store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RemoteRun:
    """The run folder of a trial on another node, which reports all heartbeats and sleeps never."""
    store.write("trials/1/settings.json", b"{}")
    monkeypatch.setattr(publisher, "EVERY_SECONDS", 1000.0)
    monkeypatch.setattr(publisher, "FINISH_SECONDS", 0.0)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    return RemoteRun(store.url, "session", tmp_path / "not_here", heartbeat_seconds=0.0)


def end_trial(place: TrialPlace, **figures: Any) -> None:
    place.on_beat({"pid": 7, "node": "ab"})
    write_files(place.folder, {"trials/1/result.json": "{}"})
    place.report({"done": True, **figures})


def test_a_trial_that_ends_while_the_store_is_away_is_published_when_it_is_back(
    store: ObjectStore, remote: RemoteRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    errors, reported = upload_fails(monkeypatch, OSError("no answer")), list[dict[str, Any]]()

    def report(figures: dict[str, Any]) -> None:
        reported.append(figures)
        if len(reported) == 4:
            errors.clear()

    with published_trial(remote, remote.folder, "1", report) as place:
        end_trial(place)
    assert [one.get("heartbeat") for one in reported] == [{"pid": 7, "node": "ab"}] * 4 + [None]
    assert reported[-1] == {"done": True, "elsewhere": True}
    assert "trials/1/result.json" in store.list()
    assert capsys.readouterr().out.count(f"the files of the trial wait for {store.url}, for up to 600 s") == 1


def test_a_trial_that_is_stopped_while_it_waits_for_the_store_ends(
    remote: RemoteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors, reported = upload_fails(monkeypatch, OSError("no answer")), list[dict[str, Any]]()

    def report(figures: dict[str, Any]) -> None:
        reported.append(figures)
        if len(reported) == 3:
            raise SystemExit

    with pytest.raises(SystemExit), published_trial(remote, remote.folder, "1", report) as place:
        end_trial(place)
    assert len(reported) == 3
    assert len(errors) == 1 + 3


@pytest.mark.parametrize(("error", "no_room"), [(FULL, ""), (OSError("no answer"), str(FULL))])
def test_a_full_disk_of_a_node_is_reported_without_waiting(
    remote: RemoteRun, error: Exception, no_room: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors, reported = upload_fails(monkeypatch, error), list[dict[str, Any]]()
    with published_trial(remote, remote.folder, "1", reported.append) as place:
        end_trial(place, no_room=no_room)
    assert len(errors) == 1 + 1
    assert no_room in reported[-1]["no_room"]
    assert reported[-1]["no_room"]


def test_a_trial_of_several_workers_is_lost_if_its_files_are_not_published(
    remote: RemoteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_fails(monkeypatch, OSError("no answer"))

    def train() -> None:
        with published_trial(remote, remote.folder, "1", print) as place:
            monkeypatch.setattr(trial_files, "WAIT_SECONDS", 0.0)
            write_files(place.folder, {"trials/1/embeddings.npz": ""})

    with pytest.raises(UnpublishedTrialError, match="takes no files; 1 files of the trial wait in") as raised:
        train()
    assert is_lost_worker(raised.value)


def test_a_node_that_does_not_reach_the_store_for_minutes_is_left_out(
    remote: RemoteRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[dict[str, Any]] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ray.get_runtime_context", lambda: Mock(get_node_id=lambda: "n1"))
    monkeypatch.setattr("ray.tune.report", reported.append)
    monkeypatch.setattr(trial_files, "WAIT_SECONDS", 0.2)
    refuse_calls("list", 1_000_000, monkeypatch)
    context = Mock(working_folder=tmp_path, folder=tmp_path / "runs/little", remote=remote, workers=1)
    context.on_this_node.return_value = context
    run_trial_on_ray({"trial": "1"}, context)
    assert [one[UNFIT_NODE] for one in reported] == ["n1"]
    assert "must reach the run folder for each trial, but for 0.2 s: the credentials" in reported[0]["note"]


def test_a_worker_of_several_that_does_not_reach_the_store_is_lost() -> None:
    assert is_lost_worker(UnreachableStoreError("no answer"))
