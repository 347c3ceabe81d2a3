"""A service on several nodes that share nothing but S3 and PostgreSQL: benchmarks/service_nodes.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from databases import emptied
from mount_namespaces import has_namespaces

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "service_nodes.py"


@pytest.mark.slow
@pytest.mark.skipif(not has_namespaces(), reason="the nodes need mount namespaces of Linux")
def test_a_killed_node_costs_only_the_calls_in_flight_and_no_enrolment(bundle: Path, s3: str, postgresql: str) -> None:
    command = [sys.executable, str(BENCHMARK), str(bundle), "--s3", s3, "--store", emptied(postgresql)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "both replicas know the enrolment in each of" in run.stdout.splitlines()[-1]
