"""A sweep by `ray job submit` from a folder that has only the project; results come back through the run store."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from server_processes import free_port, server_process
from small_sweep import SWEEP
from typer.testing import CliRunner

import whale_ray
from whale_ray.cli import application
from whale_ray.errors import InputError
from whale_ray.inference.bundle import MANIFEST
from whale_ray.inference.bundle_transfer.addresses import local_bundle
from whale_ray.sweep.run_store.driver_run_folder import opened_runs

RAY = Path(sys.executable).with_name("ray")


@pytest.fixture
def project(tmp_path: Path, photographs: Path) -> Path:
    """A folder with the code, which differs from the installed one, and a sweep file."""
    folder = tmp_path / "project"
    package = Path(whale_ray.__file__).parent
    shutil.copytree(package, folder / "whale_ray", ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "whale_ray" / "sweep" / "__main__.py").open("a") as file:
        file.write("# another version\n")
    (folder / "little.yaml").write_text(SWEEP.replace("ROOT", str(photographs)))
    return folder


@pytest.fixture
def head(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of the dashboard of a head node that wants a token; its cache is not that of this process."""
    for name, value in (("ENDPOINT_URL", s3), ("ACCESS_KEY_ID", "key"), ("SECRET_ACCESS_KEY", "secret")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    address = f"http://127.0.0.1:{(port := free_port())}"
    ports = (f"--port={free_port()}", f"--dashboard-port={port}", f"--dashboard-agent-listen-port={free_port()}")
    with tempfile.TemporaryDirectory(prefix="rj") as folder:  # short, for Ray's sockets
        options = (f"--temp-dir={folder}", "--num-cpus=2", "--object-store-memory=100000000", "--disable-usage-stats")
        node = {"WHALE_RAY_CACHE": str(tmp_path / "node"), "PATH": f"{RAY.parent}:{os.environ['PATH']}"}
        node["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "1"
        command = (RAY, "start", "--head", "--block", *ports, *options)
        with server_process(*command, url=address, log=tmp_path / "head.log", **node):
            yield address


@pytest.mark.slow
def test_a_submitted_sweep_runs_the_code_that_was_sent_and_is_read_from_the_store(project: Path, head: str) -> None:
    runs = "s3://whales/jobs"
    command = [RAY, "job", "submit", "--address", head, "--working-dir", ".", "--"]
    command += ["python", "-m", "whale_ray.sweep", "little.yaml", "--runs", runs]
    for option in ("loss.name=arcface", "train.epochs=1", "resources.cpus=1"):
        command += ["--set", option]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "epoch 1, loss" in done.stdout
    assert re.search(rf"run folder +{runs}/little", done.stdout)
    shown = CliRunner().invoke(application, ["report", f"{runs}/little"])
    assert shown.exit_code == 0, shown.output
    report = Path(shown.stdout.splitlines()[-1])
    table = pd.read_csv(report.with_name("leaderboard.csv"))
    assert table["status"].tolist() == ["finished"] * 2
    assert (local_bundle(f"{runs}/little/best") / MANIFEST).exists()


def opened(runs: Path) -> Iterator[Path]:
    with opened_runs(runs, "little", fresh=False, say=print, stopping=threading.Event()) as found:
        yield found.folder


def test_a_run_folder_in_the_working_folder_of_a_job_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "working_dir_files" / "_ray_pkg_0123456789abcdef"
    with pytest.raises(InputError, match=r"outlives its job, but .*/runs is in the copy .*--runs s3://BUCKET/PREFIX"):
        list(opened(folder / "runs"))
    assert list(opened(tmp_path / "runs"))
