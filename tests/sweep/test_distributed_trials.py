"""Trials that several workers train together on Ray."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pandas as pd
import psutil
import pytest
from recording_progress import RecordingProgress
from waiting import wait_until

from whale_ray.sweep.execution.cluster import worker_groups
from whale_ray.sweep.execution.cluster.worker_groups import WorkerGroups
from whale_ray.sweep.execution.driver import run_sweep
from whale_ray.sweep.execution.trial_queue import TrialQueue
from whale_ray.sweep.execution.trial_store import TrialStore
from whale_ray.sweep.trials.distributed.distributed_run import is_lost_worker
from whale_ray.sweep.trials.distributed.network_interface import name_interface
from whale_ray.sweep.trials.distributed.training_channel import open_channel

if TYPE_CHECKING:
    from whale_ray.sweep.config.sweep_spec import Sweep


def training_workers() -> list[psutil.Process]:
    """Processes of Ray Train that this test session has started."""
    found = []
    for process in psutil.Process(os.getpid()).children(recursive=True):
        try:
            if any("RayTrainWorker" in word for word in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
def test_each_stopped_trial_frees_the_places_of_its_workers(
    write_sweep: Callable[..., Sweep], cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers are compared with one, and one of them is killed, in tests/sweep/test_nodes_on_s3.py."""
    import ray

    counts: list[int] = []
    monkeypatch.setattr(TrialQueue, "_baselines", lambda queue: iter(()))  # each trial starts four processes
    monkeypatch.setattr(TrialStore, "may_continue", lambda *_: False)
    sweep = write_sweep("resources.workers=2", "train.epochs=3")
    progress = RecordingProgress(lambda trial, figures: counts.append(len(training_workers())))
    result = run_sweep(sweep, runs=tmp_path, progress=progress)
    assert counts == [2, 2]  # the second trial needs the places of the first
    assert result.table["status"].tolist() == ["pruned", "pruned"]
    for trial in result.table["trial"]:
        assert pd.read_csv(result.folder / "trials" / trial / "epochs.csv")["epoch"].tolist() == [1]
    wait_until(lambda: ray.available_resources().get("CPU") == 2.0, rest=0.2)
    wait_until(lambda: training_workers() == [], rest=0.2)


def test_the_driver_frees_the_places_of_a_trial_whose_process_is_lost(
    cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray
    from ray.util.placement_group import placement_group

    places = placement_group([{"CPU": 1}] * 2)
    ray.get(places.ready())
    name, channel = open_channel("0a")
    groups = WorkerGroups({"CPU": 1.0}, workers=2)
    groups.record("0a", {"channel": name, "places": places.id.hex()})
    groups.settle()
    groups.end("0a")
    groups.end("a trial with one worker")
    assert ray.get(channel.wait_for_answer.remote()) is False
    groups.settle()
    assert ray.available_resources().get("CPU", 0.0) == 0.0  # the workers have five seconds to leave
    monkeypatch.setattr(worker_groups, "_LEAVE_SECONDS", 0.0)
    groups.settle()
    wait_until(lambda: ray.available_resources().get("CPU") == 2.0, rest=0.1)
    groups.record("0b", {"channel": "no such channel", "places": places.id.hex()})
    groups.settle(at_once=True)  # neither the channel nor the places exist any more
    ray.kill(channel)


def test_the_driver_frees_places_that_a_trial_has_reserved_but_not_reported(
    cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray
    from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

    monkeypatch.setattr(worker_groups, "_LEAVE_SECONDS", 0.0)
    sizes = {"lost": [{"CPU": 0.25}] * 2, "running": [{"CPU": 0.25}] * 2, "other": [{"CPU": 0.25}] * 3}
    made = {name: placement_group(bundles) for name, bundles in sizes.items()}
    ray.get([places.ready() for places in made.values()])

    def reserved() -> set[str]:
        table = placement_group_table()
        return {name for name, places in made.items() if table[places.id.hex()]["state"] == "CREATED"}

    groups = WorkerGroups({"CPU": 0.25}, workers=2)
    for trial in ("0a", "0b"):
        groups.start(trial)
    groups.end("0a")
    groups.settle()
    assert reserved() == set(made)  # either could be that of the trial whose workers still start
    groups.record("0b", {"channel": "", "places": made["running"].id.hex()})
    groups.settle()
    wait_until(lambda: reserved() == {"running", "other"}, rest=0.1)
    groups.settle(at_once=True)
    wait_until(lambda: reserved() == {"other"}, rest=0.1)
    remove_placement_group(made["other"])


@pytest.mark.parametrize(("set_before", "wanted"), [("", "eth1"), ("ib0", "ib0")])
def test_a_worker_listens_at_the_address_by_which_ray_knows_its_node(
    set_before: str, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"lo": ["127.0.1.1"], "eth0": ["192.0.2.1", "2001:db8::1"], "eth1": ["fe80::1", "198.51.100.7"]}
    interfaces = {name: [SimpleNamespace(address=one) for one in addresses] for name, addresses in found.items()}
    monkeypatch.setattr("psutil.net_if_addrs", lambda: interfaces)
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "198.51.100.7")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", set_before)
    if not set_before:
        monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    name_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == wanted


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[../third_party/gloo/pair.cc:553] Connection closed by peer [127.0.0.1]:1"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GB"), False),
        (ValueError("NCCL"), False),
    ],
)
def test_a_lost_connection_is_a_lost_worker_and_an_error_of_the_training_is_not(error: Exception, lost: bool) -> None:
    assert is_lost_worker(error) is lost
