"""Nodes that are killed and nodes that join while a sweep runs: several Ray nodes on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from ray.cluster_utils import Cluster
from server_processes import node_without_dashboard
from small_sweep import SWEEP

from whale_ray.sweep.execution.driver import run_sweep

if TYPE_CHECKING:
    from whale_ray.sweep.config.sweep_spec import Sweep

pytestmark = pytest.mark.slow
OPTIONS = ("train.epochs=12", "train.learning_rate=[1.0e-3, 3.0e-3]", "train.precision=fp32", "resources.cpus=1")
TIMES = ("seconds", "milliseconds_per_image", "images_per_second")


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """Adds a node with one CPU and a cache folder of its own to a cluster whose head runs no trial."""
    cluster = Cluster(initialize_head=True, head_node_args=node_without_dashboard())

    def add(name: str) -> Any:
        return cluster.add_node(num_cpus=1, env_vars={"WHALE_RAY_CACHE": str(tmp_path / name)})

    add.cluster = cluster  # type: ignore[attr-defined]
    yield add
    cluster.shutdown()


def nodes_of_trials(run: Path) -> dict[str, str]:
    """The Ray node of each running trial that has finished an epoch."""
    found = {}
    for path in run.glob("trials/*/alive"):
        try:
            found[path.parent.name] = json.loads(path.read_text())["node"]
        except (FileNotFoundError, ValueError):
            continue
    return {trial: node for trial, node in found.items() if (run / "trials" / trial / "epochs.csv").exists()}


@contextmanager
def sweep_on(cluster: Cluster, photographs: Path, runs: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command of a sweep on a cluster; its run folder is `little`."""
    file = runs.parent / "little.yaml"
    file.write_text(SWEEP.replace("ROOT", str(photographs)))
    command = [sys.executable, "-m", "whale_ray.sweep", str(file), "--runs", str(runs), "--address", cluster.address]
    with subprocess.Popen([*command, *(word for option in options for word in ("--set", option))]) as driver:
        try:
            yield driver
        finally:
            driver.kill()


def test_trials_shorter_than_the_start_of_a_worker_run_on_all_nodes_and_on_one_that_joins(
    nodes: Callable[[str], Any], photographs: Path, tmp_path: Path
) -> None:
    present = {nodes(name)._node_id for name in ("first", "second")}
    rates = ", ".join(f"{1.0e-3 * (1 + number):g}" for number in range(80))
    options = ("train.epochs=1", f"train.learning_rate=[{rates}]", "resources.cpus=1", "loss.name=arcface")
    run = tmp_path / "runs" / "little"
    seen: set[str] = set()
    with sweep_on(nodes.cluster, photographs, run.parent, *options) as driver:  # type: ignore[attr-defined]
        while len(seen) < 3 and driver.poll() is None:
            seen |= set(nodes_of_trials(run).values())
            if len(present) == 2 and present <= seen:
                present.add(nodes("third")._node_id)
            time.sleep(0.02)
        assert driver.poll() is None, "the sweep ended before each node had a trial"
    assert seen == present


def test_a_killed_node_costs_no_trial_its_place_and_a_new_node_gets_one(
    nodes: Callable[[str], Any], write_sweep: Callable[..., Sweep], photographs: Path, tmp_path: Path
) -> None:
    present = {node._node_id: node for node in (nodes("first"), nodes("second"))}
    run = tmp_path / "runs" / "little"
    seen: set[str] = set()
    added = ""
    with sweep_on(nodes.cluster, photographs, run.parent, *OPTIONS) as driver:  # type: ignore[attr-defined]
        while driver.poll() is None:
            running = nodes_of_trials(run)
            seen |= set(running.values())
            if running and not added:
                lost = present[next(iter(running.values()))]
                nodes.cluster.remove_node(lost, allow_graceful=False)  # type: ignore[attr-defined]
                added = nodes("third")._node_id
            time.sleep(0.05)
    assert driver.returncode == 0
    assert added in seen

    wanted = run_sweep(write_sweep(*OPTIONS), runs=tmp_path / "undisturbed", in_process=True)
    tables = [pd.read_csv(one / "leaderboard.csv").sort_values("trial") for one in (run, wanted.folder)]
    first, second = (table.drop(columns=[*TIMES, "rank"], errors="ignore").reset_index(drop=True) for table in tables)
    pd.testing.assert_frame_equal(first, second)
    for trial in first["trial"]:
        epochs = run / "trials" / trial / "epochs.csv"
        assert not epochs.exists() or pd.read_csv(epochs)["epoch"].is_unique
