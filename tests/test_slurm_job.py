"""deploy/slurm.sh with commands of SLURM and Ray that only pretend."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

DEPLOY = Path(__file__).parents[1] / "deploy"
FAKES = {
    # the script looks for nodes every 2 s
    "sleep": '[ "$1" != 2 ] || set -- 0.1; exec /bin/sleep "$1"',
    "scontrol": 'printf "%s\\n" n1 n2 n3',
    # a job step: runs its command, and ends with it
    "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"',
    "ray": """
case "$1" in
start) [ -z "${FAIL:-}" ] || [ "${*#*$FAIL}" = "$*" ] || exit 1
       node="$STATE/node.$$"; trap 'rm -f "$node"; exit 0' TERM
       if [ -n "${HOLD:-}" ] && [ "${*#*$HOLD}" != "$*" ]; then touch "$STATE/held"; else touch "$node"; fi
       while :; do sleep 0.05; done ;;
status) echo Active:; for one in "$STATE"/node.*; do [ ! -e "$one" ] || echo " 1 node_$one"; done; echo Pending: ;;
esac""",
    # the sweep: an epoch at a time, resumed by the next job
    "python": """
echo "$@" >> "$STATE/commands"
trap 'exit 130' TERM
while [ "$(cat "$STATE/epochs" 2> /dev/null | wc -l)" -lt 4 ]; do echo epoch >> "$STATE/epochs"; sleep 0.5; done
exit ${CODE:-0}""",
}


class Slurm:
    """Commands of SLURM and Ray that only pretend, and jobs that run deploy/slurm.sh with them."""

    def __init__(self, folder: Path) -> None:
        self.state, self.tools = folder / "state", folder / "bin"
        self.state.mkdir()
        self.tools.mkdir()
        for name, body in FAKES.items():
            (self.tools / name).write_text(f"#!/bin/bash\n{body}\n")
            (self.tools / name).chmod(stat.S_IRWXU)
        self.environment = os.environ | {
            "PATH": f"{self.tools}:{os.environ['PATH']}",
            "STATE": str(self.state),
            "SLURM_JOB_NODELIST": "n[1-3]",
        }

    def submit(self, **environment: str) -> subprocess.Popen[str]:
        command = [str(DEPLOY / "slurm.sh"), "a.yaml", "--runs", "/shared/my runs"]
        return subprocess.Popen(command, env=self.environment | environment, stderr=subprocess.PIPE, text=True)

    def epochs(self) -> int:
        file = self.state / "epochs"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def has_nodes(self) -> bool:
        return any(self.state.glob("node.*"))


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    return Slurm(tmp_path)


@pytest.mark.parametrize("code", [0, 3])
def test_a_slurm_job_has_the_exit_code_of_its_sweep_and_leaves_no_node(slurm: Slurm, code: int) -> None:
    job = slurm.submit(CODE=str(code))
    job.communicate(timeout=300)
    assert job.returncode == code
    assert (slurm.state / "commands").read_text() == (
        "-m whale_ray.sweep a.yaml --runs /shared/my runs --address n1:6379\n"
    )
    assert not slurm.has_nodes()


def test_a_slurm_job_that_is_ended_twice_goes_on_each_time(slurm: Slurm) -> None:
    for epoch in (1, 2):
        job = slurm.submit()
        while slurm.epochs() < epoch:
            time.sleep(0.02)
        job.send_signal(signal.SIGTERM)
        job.communicate(timeout=300)
        assert job.returncode == 130
        assert not slurm.has_nodes()
    job = slurm.submit()
    job.communicate(timeout=300)
    assert job.returncode == 0
    assert slurm.epochs() == 4


@pytest.mark.parametrize("what", ["--head", "--address"])
def test_a_slurm_job_whose_ray_does_not_start_fails_before_the_sweep(slurm: Slurm, what: str) -> None:
    job = slurm.submit(FAIL=what)
    _, said = job.communicate(timeout=300)
    assert job.returncode == 1
    assert "a `ray start` has failed" in said
    assert not (slurm.state / "commands").exists()
    assert not slurm.has_nodes()


@pytest.mark.parametrize("what", ["--head", "--address"])
def test_a_slurm_job_that_is_ended_while_its_nodes_start_begins_no_sweep(slurm: Slurm, what: str) -> None:
    job = slurm.submit(HOLD=what)
    while not (slurm.state / "held").exists():
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    _, said = job.communicate(timeout=300)
    assert job.returncode == 130
    assert "submit it again" in said
    assert not (slurm.state / "commands").exists()
    assert not slurm.has_nodes()


def test_a_sweep_that_is_ended_before_it_handles_signals_counts_as_interrupted(slurm: Slurm) -> None:
    (slurm.tools / "python").write_text('#!/bin/bash\ntouch "$STATE/python"; while :; do sleep 0.05; done\n')
    job = slurm.submit()
    while not (slurm.state / "python").exists():
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    job.communicate(timeout=300)
    assert job.returncode == 130
