"""Ray nodes of one machine that share nothing but S3 (moto's server), for benchmarks of sweeps and services."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ray_machines import Cluster, free_port, node_environment, wait_for

_AT_ONCE = 3  # nodes that start; with eight, Ray's own limits end the start on two cores


@contextmanager
def moto(folder: Path) -> Iterator[str]:
    """Yield the URL of moto's S3."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    with (folder / "moto.log").open("w") as log:
        command = [sys.executable, "-m", "moto.server", "-p", str(port)]
        with subprocess.Popen(command, stdout=log, stderr=log) as process:
            try:
                wait_for(lambda: answers(url), "moto")
                yield url
            finally:
                process.kill()


def answers(url: str) -> bool:
    """Return whether a server answers."""
    with suppress(OSError):
        urllib.request.urlopen(url, timeout=1)
        return True
    return False


@contextmanager
def cluster_on_s3(nodes: int, s3: str) -> Iterator[tuple[Cluster, str]]:
    """Yield a running cluster whose machines share nothing but S3, and the URL of an empty bucket.

    Args:
        nodes: Number of nodes, n0, n1, …
        s3: URL of a running moto server; empty: start one.
    """
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="wr"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        endpoint = s3 or stack.enter_context(moto(folder))
        bucket = f"nodes-{folder.name.lower().replace('_', '-')}"
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{bucket}", method="PUT"))
        storage = {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        cluster = Cluster(folder, node_environment() | storage)
        stack.callback(cluster.stop)
        for first in range(0, nodes, _AT_ONCE):
            cluster.add_all([f"n{number}" for number in range(first, min(nodes, first + _AT_ONCE))])
        yield cluster, f"s3://{bucket}"
