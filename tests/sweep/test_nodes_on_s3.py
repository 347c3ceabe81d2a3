"""Sweeps on several nodes that share nothing but S3: benchmarks/nodes_on_s3.py in a short form."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from mount_namespaces import has_namespaces

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "nodes_on_s3.py"


@pytest.mark.slow
@pytest.mark.skipif(not has_namespaces(), reason="the nodes need mount namespaces of Linux")
@pytest.mark.parametrize(
    ("options", "outcome"),
    [
        (["--trials", "4", "--epochs", "8", "--losses", "kill"], "equals that of one machine to the last digit"),
        (
            ["--trials", "2", "--epochs", "2", "--losses", "none", "--workers", "2"],
            "differ from one worker's by at most",
        ),
    ],
    ids=["a node is killed and one added", "the workers of a trial are on two nodes"],
)
def test_a_sweep_over_nodes_has_the_results_of_one_machine(
    options: list[str], outcome: str, s3: str, photographs: Path
) -> None:
    command = [sys.executable, str(BENCHMARK), "--nodes", "2", *options, "--s3", s3, "--photographs", str(photographs)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert outcome in run.stdout
