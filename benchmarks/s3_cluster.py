"""Ray nodes of one machine that share nothing but a local S3, for benchmarks of sweeps and services."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from node_network import NodeNetwork
from ray_machines import Cluster, free_port, node_environment, wait_for

_AT_ONCE = 3  # nodes that start; with eight, Ray's own limits end the start on two cores


@contextmanager
def moto(folder: Path, *, host: str = "127.0.0.1") -> Iterator[str]:
    """Yield the URL of moto's S3, at an address of this machine."""
    with s3_server(folder, "-m", "moto.server", "-H", host, "-p", host=host) as url:
        yield url


@contextmanager
def memory_s3(folder: Path) -> Iterator[str]:
    """Yield the URL of an S3 that costs little processor time."""
    with s3_server(folder, str(Path(__file__).with_name("memory_s3.py"))) as url:
        yield url


@contextmanager
def s3_server(folder: Path, *arguments: str, host: str = "127.0.0.1") -> Iterator[str]:
    """Yield the URL of a server.

    Args:
        folder: Gets its log.
        arguments: Arguments of Python, to which the port is added.
        host: Address at which it listens.
    """
    url = f"http://{host}:{(port := free_port())}"
    with (
        (folder / "s3.log").open("w") as log,
        subprocess.Popen([sys.executable, *arguments, str(port)], stdout=log, stderr=log) as process,
    ):
        try:
            wait_for(lambda: answers(url), "S3")
            yield url
        finally:
            process.kill()


def answers(url: str) -> bool:
    """Return whether a server answers."""
    try:
        urllib.request.urlopen(url, timeout=1)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@contextmanager
def cluster_on_s3(nodes: int, s3: str = "", *, has_networks: bool = False) -> Iterator[tuple[Cluster, str]]:
    """Yield a running cluster whose machines share nothing but S3, and the URL of an empty bucket.

    Args:
        nodes: Number of nodes, n0, n1, …
        s3: URL of a running S3; empty: start moto's server.
        has_networks: Each node has a network namespace of its own, so that it can be cut off; S3 is moto's.
    """
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="wr"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        network = NodeNetwork() if has_networks else None
        if network:
            stack.callback(network.close)
            endpoint = stack.enter_context(moto(folder, host=network.host))
        else:
            endpoint = s3 or stack.enter_context(moto(folder))
        bucket = f"nodes-{folder.name.lower().replace('_', '-')}"
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{bucket}", method="PUT"))
        storage = {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        cluster = Cluster(folder, node_environment() | storage, network)
        stack.callback(cluster.stop)
        for first in range(0, nodes, _AT_ONCE):
            cluster.add_all([f"n{number}" for number in range(first, min(nodes, first + _AT_ONCE))])
        yield cluster, f"s3://{bucket}"
