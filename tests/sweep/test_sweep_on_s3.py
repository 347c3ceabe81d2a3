"""Sweeps whose run folder is in a bucket of S3 (moto): same results, resume and growth elsewhere, errors."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import httpx
import pandas as pd
import pytest
from recording_progress import RecordingProgress
from run_store_files import write_files
from small_sweep import SWEEP
from typer.testing import CliRunner

from whale_ray.cli import application
from whale_ray.errors import InputError
from whale_ray.inference.bundle import MANIFEST
from whale_ray.inference.bundle_transfer.addresses import local_bundle
from whale_ray.inference.bundle_transfer.object_store import ObjectStore
from whale_ray.sweep.execution.console import Progress
from whale_ray.sweep.execution.driver import run_sweep
from whale_ray.sweep.run_store import publisher
from whale_ray.sweep.run_store.run_download import mirror_folder

if TYPE_CHECKING:
    from whale_ray.sweep.execution.driver import SweepResult

pytestmark = pytest.mark.integration

WriteSweep = Callable[..., Any]
MEASURED = ["seconds", "milliseconds_per_image"]

DRIVER = """
import sys
from whale_ray.sweep.config.sweep_spec import load_sweep
from whale_ray.sweep.execution.console import Progress
from whale_ray.sweep.execution.driver import run_sweep
from whale_ray.sweep.run_store import publisher
publisher.EVERY_SECONDS = 0.2
run_sweep(load_sweep(sys.argv[1], []), runs=sys.argv[2], in_process=True)
"""


@pytest.fixture
def bucket(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket."""
    for name, value in (("ENDPOINT_URL", s3), ("ACCESS_KEY_ID", "somebody"), ("SECRET_ACCESS_KEY", "secret")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setattr(publisher, "FINISH_SECONDS", 0.5)
    name = f"bucket-{uuid.uuid4().hex}"
    httpx.put(f"{s3}/{name}").raise_for_status()
    return f"s3://{name}"


def delete_bucket(url: str) -> None:
    from pyarrow.fs import S3FileSystem

    server = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    options = {"endpoint_override": server, "scheme": "http", "region": "us-east-1"}
    S3FileSystem(**options, allow_bucket_deletion=True).delete_dir(url.removeprefix("s3://"))


def results(result: SweepResult) -> pd.DataFrame:
    return result.table.drop(columns=[name for name in MEASURED if name in result.table])


def test_a_sweep_on_s3_has_the_local_results_and_all_commands_read_it(
    bucket: str, finished: SweepResult, write_sweep: WriteSweep
) -> None:
    result = run_sweep(write_sweep(), runs=f"{bucket}/runs", in_process=True)
    pd.testing.assert_frame_equal(results(result), results(finished), check_exact=True)
    assert result.url == f"{bucket}/runs/little"
    assert result.exit_code == 0
    assert result.bundle is not None
    manifest = (result.bundle / MANIFEST).read_bytes()
    shutil.rmtree(result.folder)
    assert (local_bundle(f"{bucket}/runs/little/best") / MANIFEST).read_bytes() == manifest
    shown = CliRunner().invoke(application, ["report", f"{bucket}/runs/little"])
    assert shown.exit_code == 0, shown.output
    assert "downloading" in shown.output
    assert f"{bucket}/runs/little/report.html is uploaded" in shown.output
    store = ObjectStore(f"{bucket}/runs/little")
    assert store.size("report.html") == Path(shown.stdout.splitlines()[-1]).stat().st_size


def test_a_sweep_continues_elsewhere_when_its_driver_and_the_mirror_are_gone(
    bucket: str, finished: SweepResult, write_sweep: WriteSweep, tmp_path: Path
) -> None:
    (tmp_path / "little.yaml").write_text(write_sweep().to_yaml())
    command = [sys.executable, "-c", DRIVER, tmp_path / "little.yaml", bucket]
    store = ObjectStore(f"{bucket}/little")
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        limit = time.monotonic() + 120.0
        while not any(key.endswith("state.pt") for key in store.list()):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < limit, (tmp_path / "log").read_text()
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    shutil.rmtree(mirror_folder(f"{bucket}/little"))
    result = run_sweep(write_sweep(), runs=bucket, in_process=True)
    pd.testing.assert_frame_equal(results(result), results(finished), check_exact=True)


def test_growth_rescoring_and_quota_need_no_mirror(bucket: str, finished: SweepResult, write_sweep: WriteSweep) -> None:
    less = ("loss.name=[arcface]", "retrieval.vote=[nearest]", "keep_checkpoints=2")
    first = run_sweep(write_sweep(*less), runs=bucket, in_process=True)
    store = ObjectStore(f"{bucket}/little")
    assert trials_with_weights(store) == set(first.table["trial"])
    shutil.rmtree(mirror_folder(store.url))

    progress = RecordingProgress()
    grown = run_sweep(write_sweep("keep_checkpoints=1"), runs=bucket, in_process=True, progress=progress)
    assert len(progress.begun) == 1
    pd.testing.assert_frame_equal(results(grown), results(finished), check_exact=True)
    assert trials_with_weights(store) == {grown.table["trial"][0]}
    shutil.rmtree(mirror_folder(store.url))

    trials = store.list("trials")
    shown = CliRunner().invoke(application, ["report", store.url, "--retrieval", "vote=[centroid]"])
    assert shown.exit_code == 0, shown.output
    assert shown.output.count("centroid") == len(grown.table)
    assert store.list("trials") == trials


def trials_with_weights(store: ObjectStore) -> set[str]:
    return {key.split("/")[1] for key in store.list("trials") if key.endswith("/checkpoint/encoder.safetensors")}


def test_a_bucket_that_vanishes_loses_nothing(
    bucket: str, s3: str, finished: SweepResult, write_sweep: WriteSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    started: list[str] = []

    def start(trial: str, setting: str) -> None:
        started.append(trial)
        if len(started) == 1:
            delete_bucket(bucket)

    progress = Progress(sweep="little", objective="recall@1")
    monkeypatch.setattr(progress, "say", said.append)
    monkeypatch.setattr(progress, "started", start)
    result = run_sweep(write_sweep(), runs=bucket, in_process=True, progress=progress)
    pd.testing.assert_frame_equal(results(result), results(finished), check_exact=True)
    assert result.exit_code == 1
    assert "leaderboard.csv" in result.unpublished
    assert "the same command on this machine uploads them" in said[-1]
    httpx.put(f"{s3}/{bucket.removeprefix('s3://')}").raise_for_status()
    assert run_sweep(write_sweep(), runs=bucket, in_process=True).exit_code == 0
    assert {"leaderboard.csv", "best", "study.db"} <= set(ObjectStore(f"{bucket}/little").list())


class ReadOnlyS3(BaseHTTPRequestHandler):
    """S3 as credentials without the permission to write see it."""

    def do_GET(self) -> None:
        self._answer(200, "<ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>")

    def do_PUT(self) -> None:
        self._answer(403, "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")

    def do_POST(self) -> None:
        self.do_PUT()

    def _answer(self, status: int, text: str) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Print nothing."""


class SilentS3(ReadOnlyS3):
    """S3 that lists, and does not answer a PUT before the test ends."""

    puts: ClassVar[list[str]] = []
    has_ended = threading.Event()

    def do_PUT(self) -> None:
        self.puts.append(self.path)
        self.has_ended.wait()


@contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def read_only_s3() -> Iterator[str]:
    with served(ReadOnlyS3) as url:
        yield url


@pytest.mark.parametrize(
    ("store", "reason"),
    [
        ("no bucket", "NO_SUCH_BUCKET.*does not exist. Create the bucket"),
        ("unreachable", "NETWORK_CONNECTION.*Check the network and AWS_ENDPOINT_URL"),
        ("read only", "ACCESS_DENIED.*Give the credentials the permission"),
    ],
)
def test_a_store_that_cannot_be_used_is_refused_before_anything_starts(
    bucket: str, read_only_s3: str, store: str, reason: str, write_sweep: WriteSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = "s3://no-such-bucket-of-whales/runs" if store == "no bucket" else bucket
    if store != "no bucket":
        monkeypatch.setenv("AWS_ENDPOINT_URL", read_only_s3 if store == "read only" else "http://127.0.0.1:1")
    said: list[str] = []
    progress = Progress(sweep="little", objective="recall@1")
    monkeypatch.setattr(progress, "say", said.append)
    with pytest.raises(InputError, match=rf"must be storage that can be used, but: .*{reason}"):
        run_sweep(write_sweep(), runs=runs, in_process=True, progress=progress)
    assert said == []


def test_storage_that_answers_no_write_is_named_before_its_own_limits_end_the_call(
    photographs: Path, tmp_path: Path
) -> None:
    file = write_files(tmp_path, {"little.yaml": SWEEP.replace("ROOT", str(photographs))}) / "little.yaml"
    code = f"""
import sys
from whale_ray.sweep import command
from whale_ray.sweep.run_store import driver_lease
driver_lease.WRITE_SECONDS = 0.5
sys.argv = ["sweep", "{file}", "--runs", "s3://whales/runs"]
command.main()
"""
    with served(SilentS3) as url:
        keys = {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
        ended = subprocess.run([sys.executable, "-c", code], env=os.environ | keys, capture_output=True, text=True)
        SilentS3.has_ended.set()
    assert (ended.returncode, ended.stdout) == (2, "")
    assert (
        "s3://whales/runs/little must be storage that can be used, but: it lists objects, but a write" in ended.stderr
    )
    assert len(SilentS3.puts) == 1, "the process has waited for a second attempt of S3"


def test_a_run_to_import_must_be_in_the_store(bucket: str, write_sweep: WriteSweep, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a run folder holds sweep.yaml, but .*/little does not"):
        run_sweep(write_sweep(), runs=tmp_path, import_from=f"{bucket}/little", in_process=True)
