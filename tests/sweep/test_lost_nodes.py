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
from server_processes import end_nodes, node_without_dashboard
from small_sweep import SWEEP

from whale_ray.sweep.execution.driver import run_sweep

if TYPE_CHECKING:
    from whale_ray.sweep.config.sweep_spec import Sweep

pytestmark = pytest.mark.slow
OPTIONS = ("train.epochs=2", "loss.name=arcface", "train.precision=fp32", "resources.cpus=1")
TIMES = ("seconds", "milliseconds_per_image", "images_per_second")


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """Adds a node with one CPU and a cache folder of its own to a cluster whose head runs no trial."""
    cluster = Cluster(initialize_head=True, head_node_args=node_without_dashboard())

    def add(name: str) -> Any:
        return cluster.add_node(num_cpus=1, env_vars={"WHALE_RAY_CACHE": str(tmp_path / name)})

    add.cluster = cluster  # type: ignore[attr-defined]
    yield add
    end_nodes(cluster)


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


def result_of(run: Path, trial: str) -> dict[str, Any]:
    result = json.loads((run / "trials" / trial / "result.json").read_text())
    return {name: value for name, value in result.items() if name not in TIMES}


def test_a_killed_node_costs_no_trial_its_place_and_short_trials_run_on_all_nodes_and_on_one_that_joins(
    nodes: Callable[[str], Any], write_sweep: Callable[..., Sweep], photographs: Path, tmp_path: Path
) -> None:
    """The trials are shorter than the start of a worker, which Ray Tune drops if another one is free before."""
    present = {node._node_id: node for node in (nodes("first"), nodes("second"))}
    run = tmp_path / "runs" / "little"
    seen: set[str] = set()
    joined = lost = ""
    rates = ", ".join(f"{1.0e-3 * (1 + number):g}" for number in range(80))
    options = (*OPTIONS, f"train.learning_rate=[{rates}]")
    with sweep_on(nodes.cluster, photographs, run.parent, *options) as driver:  # type: ignore[attr-defined]
        while not (joined in seen and (run / "trials" / lost / "result.json").exists()):
            assert driver.poll() is None, "the sweep ended before each node had a trial"
            running = nodes_of_trials(run)
            seen |= set(running.values())
            if present.keys() <= seen and running and not joined:
                lost, node = next(iter(running.items()))
                nodes.cluster.remove_node(present[node], allow_graceful=False)  # type: ignore[attr-defined]
                joined = nodes("third")._node_id
            time.sleep(0.02)
    assert seen == {*present, joined}
    results = [result_of(run, path.parent.name) for path in run.glob("trials/*/result.json")]
    assert {result["status"] for result in results} == {"finished"}

    rate = json.loads((run / "trials" / lost / "settings.json").read_text())["settings"]["train"]["learning_rate"]
    wanted = run_sweep(write_sweep(*OPTIONS, f"train.learning_rate={rate}"), runs=tmp_path / "alone", in_process=True)
    assert result_of(run, lost) == result_of(wanted.folder, lost)
    assert pd.read_csv(run / "trials" / lost / "epochs.csv")["epoch"].tolist() == [1, 2]
