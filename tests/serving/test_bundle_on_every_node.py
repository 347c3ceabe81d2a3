"""A bundle that is named by a folder which a node of the cluster lacks."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from drawn_photographs import draw, encode
from mount_namespaces import has_namespaces
from services import write_named

from whale_ray.inference.bundle import MANIFEST
from whale_ray.serving.deployment.pulled_bundles import BundleSources, fault_of_folders
from whale_ray.serving.deployment.rollout import has_room_for_replica
from whale_ray.serving.deployment.settings import ServeSettings

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
WATCH = """
import sys, threading, ray
from whale_ray.serving.deployment.start_failures import reported_failures
ray.init(address=sys.argv[1], namespace="serve", log_to_driver=False)
failed = threading.Event()
def say(line):
    print(line, flush=True)
    failed.set()
with reported_failures("whale_ray", say, rest=0.2):
    print("watching", flush=True)
    failed.wait(timeout=280)
"""  # what `serve` and `deploy` do while they wait
COMMAND = (sys.executable, "-c", "from whale_ray.cli import main; main()")


def test_a_machine_without_the_folder_or_with_another_bundle_there_is_named(bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    digests = BundleSources().digests({folder, tmp_path / "none"})
    assert list(digests) == [folder]
    assert fault_of_folders(digests, "n1") is None
    (folder / MANIFEST).write_text("{}")
    assert "but n1 has another bundle in" in str(fault_of_folders(digests, "n1"))
    shutil.rmtree(folder)
    assert f"but n1 has no {folder}. Copy it there, or name" in str(fault_of_folders(digests, "n1"))


def test_bundles_from_a_url_need_no_folder_on_other_machines(bundle: Path) -> None:
    assert BundleSources({bundle: "s3://bucket/bundle"}).digests({bundle}) == {}


@pytest.mark.parametrize(
    ("resources", "settings", "has_room"),
    [
        ({"CPU": 2.0}, {"threads": 2}, True),
        ({"CPU": 1.0}, {"threads": 2}, False),
        ({}, {}, False),
        ({"CPU": 1.0}, {"gpus": 0.5}, False),
        ({"CPU": 1.0}, {"gpus": 0.5, "shape": "split"}, True),
        ({"CPU": 1.0, "GPU": 1.0}, {"gpus": 0.5}, True),
    ],
)
def test_a_node_without_room_for_a_replica_needs_no_bundle(
    resources: dict[str, float], settings: dict[str, Any], has_room: bool
) -> None:
    assert has_room_for_replica(resources, ServeSettings(bundle=Path("b"), **settings)) is has_room


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A service on node n0, and a node n1 without the folder of the bundle."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    from ray_machines import Cluster, node_environment
    from service_nodes import Service

    bundle = write_named(tmp_path / "bundles", "tiny-first")
    folder = Path(tempfile.mkdtemp(prefix="wr"))  # short, for Ray's sockets
    cluster = Cluster(folder, node_environment())
    started: list[Service] = []

    def serve(*, replicas: int) -> Service:
        started.append(Service(cluster, str(bundle), "none", replicas=replicas))
        return started[-1]

    try:
        cluster.add("n0").wait_until_started()
        service = serve(replicas=1)
        service.wait_until_it_answers()
        cluster.add("n1", without=bundle.parent).wait_until_started()
        yield SimpleNamespace(cluster=cluster, bundle=bundle, service=service, serve=serve)
    finally:
        for one in started:
            one.process.kill()
            one.process.wait()
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.skipif(not has_namespaces(), reason="the nodes need mount namespaces of Linux")
def test_a_node_without_the_folder_stops_a_deploy_and_a_replica_there_says_so_while_others_answer(
    nodes: SimpleNamespace,
) -> None:
    environment, address = nodes.cluster.head.environment, nodes.cluster.address
    ask = {"url": f"{nodes.service.url}/v1/identify", "files": {"image": encode(draw(1, 0), "PNG")}, "timeout": 30}
    assert httpx.post(**ask).status_code == 200

    command = [*COMMAND, "deploy", str(nodes.bundle), "--set", "replicas=2", "--address", address]
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert refused.returncode == 2
    assert f"has no {nodes.bundle}. Copy it there, or name the bundle by a URL" in refused.stderr
    assert "(nothing was changed)" in refused.stderr

    watch = [sys.executable, "-c", WATCH, address]
    with subprocess.Popen(watch, env=environment, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout
        assert watching.stdout.readline() == "watching\n"
        nodes.serve(replicas=2)  # what `serve deploy` does, which checks nothing
        said = watching.stdout.read()
    assert said.startswith("a replica does not start, and Ray Serve tries again: a bundle must be at the same path")
    assert f"has no {nodes.bundle}. Copy it there, or name the bundle by a URL" in said
    assert [httpx.post(**ask).status_code for _ in range(20)] == [200] * 20
