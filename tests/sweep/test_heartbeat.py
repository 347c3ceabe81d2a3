"""Heartbeats of trials: written and locked by the worker, read by the driver."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from whale_ray.sweep.execution.runners.trial_event_handler import TrialEventHandler
from whale_ray.sweep.run_folder.heartbeat import Heartbeat, StallDetector, read_heartbeat

WORKER = """
import sys, time
from pathlib import Path
from whale_ray.sweep.run_folder.heartbeat import Heartbeat
with Heartbeat(Path(sys.argv[1]), node="first"):
    print("running", flush=True)
    time.sleep(60)
"""


def test_a_heartbeat_names_its_process_while_the_trial_runs(tmp_path: Path) -> None:
    with Heartbeat(tmp_path, node="n1"):
        assert read_heartbeat(tmp_path) == {"pid": os.getpid(), "node": "n1"}
    assert read_heartbeat(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.integration
def test_a_second_worker_waits_until_the_first_has_ended(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout
        assert first.stdout.readline() == "running\n"
        command = [sys.executable, "-c", WORKER.replace("first", "second"), str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as second:
            assert second.stdout
            time.sleep(1.0)
            place = read_heartbeat(tmp_path)
            assert place == {"pid": first.pid, "node": "first"}
            first.send_signal(signal.SIGKILL)
            assert second.stdout.readline() == "running\n"
            assert read_heartbeat(tmp_path) == {"pid": second.pid, "node": "second"}
            second.send_signal(signal.SIGKILL)


def test_a_heartbeat_is_read_after_the_run_folder_was_moved(tmp_path: Path) -> None:
    (tmp_path / "trial").mkdir()
    with Heartbeat(tmp_path / "trial", node="n1") as heartbeat:
        (tmp_path / "trial").rename(tmp_path / "moved")
        heartbeat.beat._last -= 2.0
        heartbeat.beat()


def test_a_trial_has_stalled_if_its_heartbeat_does_not_change(tmp_path: Path) -> None:
    detector = StallDetector(0.0)
    with Heartbeat(tmp_path, node="n1") as heartbeat:
        assert list(detector.find_stalled({"a": tmp_path})) == []
        heartbeat.beat._last -= 2.0
        time.sleep(0.05)
        heartbeat.beat()
        assert list(detector.find_stalled({"a": tmp_path})) == []
        time.sleep(0.05)
        assert list(detector.find_stalled({"a": tmp_path})) == ["a"]
        assert list(StallDetector(None).find_stalled({"a": tmp_path})) == []
    assert list(StallDetector(0.0).find_stalled({"b": tmp_path})) == []


def handler_of_events(folder: Path, fetched: list[tuple[str, int]]) -> TrialEventHandler:
    index = SimpleNamespace(trial_folder=lambda trial: folder, reload=lambda trial: SimpleNamespace(status="running"))
    queue = SimpleNamespace(run_again=lambda trial: None)
    store = SimpleNamespace(index=index, queue=queue, fetch=lambda trial, epochs: fetched.append((trial, epochs)))
    progress = SimpleNamespace(epoch=lambda trial, figures: None, say=print)
    return TrialEventHandler(store, progress, threading.Event(), SimpleNamespace())  # type: ignore[arg-type]


def test_a_stalled_trial_on_another_node_is_found_by_the_heartbeats_that_it_has_reported(tmp_path: Path) -> None:
    fetched: list[tuple[str, int]] = []
    events, detector = handler_of_events(tmp_path, fetched), StallDetector(0.0)
    events.heartbeat("a", {"pid": 7, "node": "ab"})
    assert read_heartbeat(tmp_path) == {"pid": 7, "node": "ab"}
    assert list(detector.find_stalled({"a": tmp_path})) == []
    time.sleep(0.05)
    events.heartbeat("a", {"pid": 7, "node": "ab"})
    assert list(detector.find_stalled({"a": tmp_path})) == []
    time.sleep(0.05)
    assert list(detector.find_stalled({"a": tmp_path})) == ["a"]
    events.lost("a", may_retry=True)
    assert read_heartbeat(tmp_path) is None
    assert fetched == [("a", 0)]


def test_a_trial_that_was_fetched_and_one_on_the_disk_of_the_driver_are_not_fetched(tmp_path: Path) -> None:
    fetched: list[tuple[str, int]] = []
    events = handler_of_events(tmp_path, fetched)
    events.epoch("local", {"epoch": 1})
    events.epoch("remote", {"epoch": 2, "elsewhere": True})
    for _ in range(2):
        events.lost("local", may_retry=True)
        events.lost("remote", may_retry=True)
    assert fetched == [("remote", 0)]
