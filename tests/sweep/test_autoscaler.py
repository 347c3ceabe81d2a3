"""A sweep on a cluster whose nodes Ray's autoscaler adds and removes: started with a head alone, as in the cloud."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
import psutil
import pytest
from server_processes import free_port, server_process
from small_sweep import SWEEP
from waiting import SECONDS, wait_until

from whale_ray.sweep.run_folder.heartbeat import read_heartbeat

pytestmark = pytest.mark.slow
HEAD = "ray.head.default"  # the only name that Ray's provider of processes takes
NO_COMMANDS = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")


def autoscaling_config(gcs: str) -> dict[str, object]:
    """A head without places for trials, and up to two nodes of one CPU, which are processes of this machine."""
    kinds = {
        HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "node": {"resources": {"CPU": 1, "object_store_memory": 10**8}, "node_config": {}, "max_workers": 2},
    }
    return {
        "cluster_name": "scaled",
        "max_workers": 2,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 0.15,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": gcs,
            "disable_node_updaters": True,
            "use_node_id_as_ip": True,
        },
        "available_node_types": kinds,
        "head_node_type": HEAD,
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        **{f"{name}_commands": [] for name in NO_COMMANDS},
    }


@pytest.fixture
def scaled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a cluster that starts with a head and grows on demand."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    gcs = f"127.0.0.1:{(port := free_port())}"
    config = tmp_path / "autoscaling.json"
    config.write_text(json.dumps(autoscaling_config(gcs)))
    with tempfile.TemporaryDirectory(prefix="ra") as folder:  # short, for Ray's sockets
        options = (f"--port={port}", f"--ray-client-server-port={free_port()}", "--num-cpus=0", f"--temp-dir={folder}")
        options += ("--object-store-memory=100000000", "--dashboard-agent-listen-port=0", "--disable-usage-stats")
        options += ("--include-dashboard=false", "--include-log-monitor=false")
        command = (Path(sys.executable).with_name("ray"), "start", "--head", "--block", *options)
        variables = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
        variables["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "1"
        command += (f"--autoscaling-config={config}",)
        with server_process(*command, said="Ray runtime started", log=tmp_path / "head.log", **variables):
            yield gcs


def count_nodes(gcs: str) -> int:
    """Return the number of nodes beside the head."""
    port = gcs.rpartition(":")[2]
    commands = [one.info["cmdline"] or [""] for one in psutil.process_iter(["cmdline"])]
    addresses = [part for command in commands if command[0].endswith("/raylet") for part in command]
    return sum(part.startswith("--gcs-address=") and part.endswith(f":{port}") for part in addresses) - 1


def freeze_a_worker(trials: Path) -> int:
    """Stop the process of a running trial and return its ID; it goes on at SIGCONT."""
    pids: list[int] = []

    def is_frozen() -> bool:
        for alive in trials.glob("*/alive"):
            if place := read_heartbeat(alive.parent):
                os.kill(place["pid"], signal.SIGSTOP)
                if alive.exists():
                    pids.append(place["pid"])
                    return True
                os.kill(place["pid"], signal.SIGCONT)
        return False

    wait_until(is_frozen)
    return pids[0]


def test_a_sweep_on_a_head_alone_gets_nodes_on_demand_and_loses_idle_ones(
    scaled: str, photographs: Path, tmp_path: Path
) -> None:
    (tmp_path / "little.yaml").write_text(SWEEP.replace("ROOT", str(photographs)))
    command = [sys.executable, "-m", "whale_ray.sweep", "little.yaml", "--address", scaled]
    for option in ("resources.wait_minutes=2", "resources.cpus=1", "train.epochs=1"):
        command += ["--set", option]
    log = tmp_path / "sweep.log"
    with (
        log.open("w") as stream,
        subprocess.Popen(command, cwd=tmp_path, env=dict(os.environ), stdout=stream, stderr=stream) as sweep,
        ExitStack() as stack,
    ):
        stack.callback(sweep.kill)
        frozen = freeze_a_worker(tmp_path / "runs" / "little" / "trials")
        wait_until(lambda: log.read_text().count(" finished (") == 2, rest=0.2, said=log.read_text)
        wait_until(lambda: count_nodes(scaled) == 1, rest=0.2, said=log.read_text)
        assert sweep.poll() is None, "the sweep runs, on the node of the third trial alone"
        os.kill(frozen, signal.SIGCONT)
        assert sweep.wait(SECONDS) == 0, log.read_text()
    assert "waiting up to 2 minutes for nodes: it wants 1 CPU where the cluster has 0" in log.read_text()
    table = pd.read_csv(tmp_path / "runs" / "little" / "leaderboard.csv")
    assert table["status"].tolist() == ["finished"] * 3
    wait_until(lambda: count_nodes(scaled) == 0, rest=0.2)
