"""A sweep on nodes that share nothing but S3 and are lost in all ways: benchmarks/nodes_on_s3.py in a short form."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from mount_namespaces import has_namespaces

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "nodes_on_s3.py"


@pytest.mark.slow
@pytest.mark.skipif(not has_namespaces(), reason="the nodes need mount namespaces of Linux")
def test_a_sweep_whose_nodes_and_head_are_lost_and_that_grows_has_the_results_of_one_machine(
    s3: str, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One node is cut off and comes back, one is warned before it ends, one is killed; then head and driver are killed.

    Where this process may not make networks, the first node is frozen instead. The same command goes on on another
    cluster. At the end the sweep grows by a trial of workers on two nodes, of which one is killed.
    """
    command = [sys.executable, str(BENCHMARK), "--nodes", "3", "--trials", "3", "--epochs", "10", "--workers", "2"]
    monkeypatch.syspath_prepend(BENCHMARK.parent)
    from node_network import can_have_networks

    silence = "cut" if can_have_networks() else "freeze"
    command += ["--losses", f"{silence}+terminate+kill,head", "--s3", s3, "--photographs", str(photographs)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "a worker on node new" in run.stdout
    assert "the first losses of 2 workers differ from one worker's by at most" in run.stdout
    assert "the table of 4 trials equals that of one machine to the last digit" in run.stdout
