"""Sweeps on several nodes that share nothing but S3: benchmarks/nodes_on_s3.py in a short form."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "nodes_on_s3.py"


def has_namespaces() -> bool:
    try:
        return subprocess.run(["unshare", "--mount", "--map-root-user", "true"], check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not has_namespaces(), reason="the nodes need mount namespaces of Linux")
def test_a_node_killed_and_one_added_leave_the_table_of_one_machine(s3: str, photographs: Path) -> None:
    command = [sys.executable, str(BENCHMARK), "--trials", "4", "--nodes", "2", "--epochs", "8"]
    run = subprocess.run(
        [*command, "--s3", s3, "--photographs", str(photographs)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "equals that of one machine to the last digit" in run.stdout
