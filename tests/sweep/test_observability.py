"""Observability of a sweep: Prometheus, TensorBoard, optuna-dashboard, W&B, live report."""

from __future__ import annotations

import json
import shutil
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import httpx
import pytest
from recording_progress import RecordingProgress
from server_processes import free_port, server_process
from waiting import wait_until

from whale_ray.sweep.execution.driver import SweepResult, run_sweep
from whale_ray.sweep.execution.runners.prometheus import Metrics
from whale_ray.sweep.run_folder.sweep_identity import sweep_identity

if TYPE_CHECKING:
    from whale_ray.sweep.config.sweep_spec import Sweep

    WriteSweep = Callable[..., Sweep]

BOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "whale_ray_sweep.json"
PROMETHEUS = shutil.which("prometheus")
pytestmark = pytest.mark.slow
OPTIONS = ("tracking.wandb=offline", "train.epochs=4", "loss.name=arcface", "resources.cpus=2")


def answer(url: str, *, within: float = 300.0, until: Callable[[Any], bool] = lambda found: True) -> Any:
    """Return the JSON at the URL once it meets the condition."""
    limit = time.monotonic() + within
    while True:
        try:
            found = httpx.get(url).raise_for_status().json()
            if until(found):
                return found
        except httpx.HTTPError:
            found = None
        assert time.monotonic() < limit, f"{url}: {found}"
        time.sleep(0.5)


@dataclass
class Interrupted:
    """A sweep that was stopped after its first epoch, and its report at that epoch."""

    result: SweepResult
    report: str


@pytest.fixture(scope="module")
def interrupted(write_sweep: WriteSweep, cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    """With W&B offline."""
    runs = tmp_path_factory.mktemp("outside")
    stopping = threading.Event()
    reports: list[str] = []

    def stop_when_written(trial: str, figures: Any) -> None:
        time.sleep(2.5)  # W&B writes what is logged once a second, and the worker is ended at once
        page = runs / "little" / "report.html"
        wait_until(page.exists)
        reports.append(page.read_text())
        stopping.set()

    sweep = write_sweep(*OPTIONS)
    result = run_sweep(sweep, runs=runs, progress=RecordingProgress(stop_when_written), stopping=stopping)
    return Interrupted(result, reports[0])


@pytest.fixture(scope="module")
def prometheus(interrupted: Interrupted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Prometheus that collects Ray's metrics each second; empty if it is not there."""
    import ray

    if PROMETHEUS is None:
        yield ""
        return
    folder = tmp_path_factory.mktemp("prometheus")
    targets = [f"127.0.0.1:{node['MetricsExportPort']}" for node in ray.nodes()]
    scrape = {"job_name": "ray", "scrape_interval": "1s", "static_configs": [{"targets": targets}]}
    (folder / "prometheus.yml").write_text(json.dumps({"scrape_configs": [scrape]}))
    address = f"127.0.0.1:{free_port()}"
    options = (f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb")
    command = (PROMETHEUS, *options, f"--web.listen-address={address}")
    with server_process(*command, url=f"http://{address}/-/ready", log=folder / "log"):
        yield f"http://{address}"


@pytest.fixture(scope="module")
def resumed(interrupted: Interrupted, prometheus: str, write_sweep: WriteSweep) -> SweepResult:
    """The same sweep, resumed to its end; its metrics are kept from vanishing all the time."""
    stopped = interrupted.result
    assert stopped.interrupted
    assert "failed" not in set(stopped.table["status"]), "W&B's own end must not fail a trial that is stopped"
    assert not (stopped.folder / "wandb").exists()
    repeat = Mock(wraps=Metrics.repeat_if_due)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Metrics, "repeat_if_due", lambda metrics: repeat(metrics))
        result = run_sweep(write_sweep(*OPTIONS), runs=stopped.folder.parent)
    assert repeat.call_count >= 4, "in each step of Tune, and an epoch is one at least"
    return result


def trained(result: SweepResult) -> Path:
    (trial,) = result.table.loc[result.table["kind"] == "trial", "trial"]
    return result.folder / "trials" / str(trial)


@pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not there: apt-get install prometheus")
def test_each_panel_of_the_dashboard_has_data(resumed: SweepResult, prometheus: str) -> None:
    """Asked for what the panels have shown: Ray drops the values of a sweep that has ended after some seconds."""

    def ask(expression: str, *, until: Callable[[Any], object]) -> None:
        shown = f"last_over_time(({expression})[1h:1s])"
        answer(str(httpx.URL(f"{prometheus}/api/v1/query", params={"query": shown})), until=lambda found: until(found))

    panels = json.loads(BOARD.read_text())["panels"]
    for expression in (target["expr"] for panel in panels for target in panel["targets"]):
        ask(expression.replace("$sweep", resumed.folder.name), until=lambda found: found["data"]["result"])
    ask("ray_whale_ray_trials", until=lambda found: trials_in(found) == {"finished": 2})


def trials_in(found: Any) -> dict[str, int]:
    """Return the number of trials by status, without zeros."""
    counts = {row["metric"]["status"]: int(row["value"][1]) for row in found["data"]["result"]}
    return {status: count for status, count in counts.items() if count}


def test_tensorboard_opens_the_run_folder_and_sees_each_epoch_once(resumed: SweepResult) -> None:
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    events = EventMultiplexer().AddRunsFromDirectory(str(resumed.folder)).Reload()
    assert list(events.Runs()) == [f"trials/{trained(resumed).name}"]
    losses = events.Scalars(f"trials/{trained(resumed).name}", "loss")
    assert [event.step for event in losses] == [1, 2, 3, 4]
    assert len(list(trained(resumed).glob("events.out.tfevents.*"))) == 2, "a file a sitting"


def log_records(content: bytes) -> Iterator[bytes]:
    """Return the records of a .wandb file: LevelDB's log format after a header of 7 bytes.

    Blocks have 32 KiB; a record's head is checksum, length and kind (whole, first, middle or last).
    """
    block, head, place, whole = 2**15, 7, 7, b""
    while place + head <= len(content):
        if block - place % block < head:
            place += block - place % block
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + head])
        whole += content[place + head : place + head + length]
        place += head + length
        if kind in (1, 4):
            yield whole
            whole = b""


def test_a_resumed_sweep_continues_its_wandb_run(resumed: SweepResult) -> None:
    from wandb.proto.wandb_internal_pb2 import Record

    steps: list[int] = []
    prefix = sweep_identity(resumed.folder, "little").wandb_prefix
    for log in sorted(trained(resumed).glob("wandb/offline-run-*/*.wandb")):
        assert log.name == f"run-{prefix}-{trained(resumed).name}.wandb"
        for data in log_records(log.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                steps += [record.history.step.num]
            if record.WhichOneof("record_type") == "run":
                assert record.run.run_group == prefix
    # the epoch that was logged less than a second before the worker was ended may be missing; none is there twice
    assert steps in ([1, 2, 3, 4], [1, 3, 4])


def test_wandb_has_the_report_and_the_bundle_as_artifacts(resumed: SweepResult) -> None:
    from wandb.proto.wandb_internal_pb2 import Record

    (log,) = resumed.folder.glob("wandb/offline-run-*/*.wandb")
    assert log.name == f"run-{sweep_identity(resumed.folder, 'little').wandb_prefix}-outcome.wandb"
    artifacts = {}
    for data in log_records(log.read_bytes()):
        (record := Record()).ParseFromString(data)
        if record.HasField("request") and record.request.HasField("log_artifact"):
            artifact = record.request.log_artifact.artifact
            artifacts[artifact.name] = artifact.type
        if record.WhichOneof("record_type") == "artifact":
            artifacts[record.artifact.name] = record.artifact.type
    assert artifacts == {"little-report": "report", "little-bundle": "model"}


def test_optuna_dashboard_shows_the_study_with_the_retrieval_choices(resumed: SweepResult, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{(port := free_port())}/api/studies"
    command = [Path(sys.executable).parent / "optuna-dashboard", f"sqlite:///{resumed.folder / 'study.db'}"]
    with server_process(*command, "--port", str(port), url=url, log=tmp_path / "log"):
        (study,) = answer(url)["study_summaries"]
        detail = answer(f"{url}/{study.get('study_id', study.get('id'))}")
    (trial,) = detail["trials"]
    notes = {note["key"]: note["value"].strip(chr(34)) for note in trial["user_attrs"]}
    best = resumed.table.set_index("trial").loc[trained(resumed).name]
    assert {"trial", "neighbours", "vote", "temperature", "flip"} <= notes.keys()
    assert (notes["trial"], notes["vote"]) == (trained(resumed).name, best["vote"])


def test_the_report_is_written_while_the_sweep_runs(interrupted: Interrupted, resumed: SweepResult) -> None:
    assert "this page reloads every minute" in interrupted.report
    assert "</html>" in interrupted.report
    assert "this page reloads" not in resumed.report.read_text()
