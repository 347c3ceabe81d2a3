"""Sweeps on Google Cloud Storage (an emulator) and on an SFTP server, which fsspec opens; errors of such storage."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import psutil
import pytest
from run_store_files import check_object_calls
from server_processes import free_port, server_process

from whale_ray.errors import InputError
from whale_ray.inference.bundle import MANIFEST
from whale_ray.inference.bundle_transfer import fsspec_systems
from whale_ray.inference.bundle_transfer.addresses import local_bundle
from whale_ray.inference.bundle_transfer.object_store import ObjectStore
from whale_ray.inference.bundle_transfer.storage_systems import storage_errors
from whale_ray.sweep.execution.driver import run_sweep
from whale_ray.sweep.run_store.run_download import mirror_folder

if TYPE_CHECKING:
    from whale_ray.sweep.execution.driver import SweepResult

pytestmark = pytest.mark.integration

SFTP_SERVER = Path(__file__).parents[1] / "sftp_server.py"
MEASURED = ["seconds", "milliseconds_per_image"]


@pytest.fixture(scope="module")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a running emulator with the bucket `whales`."""
    pytest.importorskip("gcp_storage_emulator")
    url = f"http://127.0.0.1:{(port := free_port())}"
    options = (f"--port={port}", "--host=127.0.0.1", "--in-memory", "--default-bucket=whales")
    command = (sys.executable, "-m", "gcp_storage_emulator", "start", *options)
    with server_process(*command, url=url, log=tmp_path_factory.mktemp("gcs") / "log"):
        yield url


@pytest.fixture(scope="module")
def sftp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a running SFTP server."""
    pytest.importorskip("asyncssh")
    pytest.importorskip("paramiko")
    port = free_port()
    log = tmp_path_factory.mktemp("sftp") / "log"
    with server_process(sys.executable, SFTP_SERVER, str(port), said="the server listens", log=log):
        yield f"sftp://whale:fluke@127.0.0.1:{port}"


@pytest.fixture(params=["gcs", "sftp"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty prefix."""
    server = request.getfixturevalue(request.param)
    if request.param == "sftp":
        return f"{server}{tmp_path}/bucket"
    monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", server)
    return f"gs://anonymous@whales/{tmp_path.name}"


def test_objects_are_written_listed_moved_and_deleted(bucket: str, tmp_path: Path) -> None:
    check_object_calls(ObjectStore(bucket), tmp_path)


def test_an_sftp_server_that_stops_to_answer_is_an_error_until_it_answers_again(
    sftp: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fsspec_systems, "_ANSWER_SECONDS", 1.0)
    (server,) = [one for one in psutil.Process().children() if str(SFTP_SERVER) in one.cmdline()]
    store = ObjectStore(f"{sftp}{tmp_path}")
    store.write("one", b"1")
    server.suspend()
    try:
        with pytest.raises(OSError, match="no answer within 1 s"):
            store.read("one")
    finally:
        server.resume()
    store.reconnect()
    assert store.read("one") == b"1"


def test_a_sweep_has_the_local_results_and_continues_elsewhere(
    bucket: str, finished: SweepResult, write_sweep: Callable[..., Any]
) -> None:
    result = run_sweep(write_sweep(), runs=f"{bucket}/runs", in_process=True)
    tables = [one.table.drop(columns=MEASURED, errors="ignore") for one in (result, finished)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert (result.url, result.exit_code) == (f"{bucket}/runs/little", 0)

    shutil.rmtree(mirror_folder(f"{bucket}/runs/little"))
    again = run_sweep(write_sweep(), runs=f"{bucket}/runs", in_process=True)
    pd.testing.assert_frame_equal(again.table, result.table, check_exact=True)
    assert ObjectStore(f"{bucket}/runs/little").list(".lease") == {}

    assert again.bundle is not None
    pulled = local_bundle(f"{bucket}/runs/little/best")
    assert (pulled / MANIFEST).read_bytes() == (again.bundle / MANIFEST).read_bytes()


@pytest.mark.parametrize(
    ("url", "remedy"), [("gs://b/p", "GOOGLE_APPLICATION_CREDENTIALS"), ("s3://b/p", "AWS_"), ("file:///p", "folder")]
)
def test_an_error_of_storage_names_the_credentials_of_its_kind(url: str, remedy: str) -> None:
    with (
        pytest.raises(InputError, match=rf"Check the URL, the network and the credentials \(.*{remedy}"),
        storage_errors(url),
    ):
        raise OSError("no")
