"""Benchmark of a grid with several image sizes on Ray nodes with their own caches: how often photographs are decoded.

The decoder of the nodes waits for each photograph, as if photographs were large and each node had its own cores.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import psutil
import typer
from nodes_on_s3 import Epochs, Nodes, compare, draw_photographs, write_sweep
from ray_machines import Cluster
from s3_cluster import cluster_on_s3

IMAGE_SIZES = "[32x64, 48x96, 64x128]"
IN_ORDER = """
import sys
from whale_ray.sweep.execution.cluster import cache_aware_order
from whale_ray.sweep.command import main
cache_aware_order.CacheAwareOrder.choose = lambda self, waiting: next(iter(waiting))
sys.exit(main())
"""
SLOW_DECODER = """
import importlib.machinery, sys, time

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "whale_ray.data.decoding.decode_photograph":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module
        def exec_module(module):
            load(module)
            decode = module.decode_photograph
            module.decode_photograph = lambda *arguments: (time.sleep(SECONDS), decode(*arguments))[1]
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
"""


def processor_seconds(cluster: Cluster) -> float:
    """Return the processor time of all processes of the nodes, also of those that have ended."""
    total = 0.0
    for machine in cluster.started:
        for process in machine.processes():
            with suppress(psutil.Error):
                total += sum(process.cpu_times()[:4])
    return total


def run_grid(cluster: Cluster, bucket: str, file: Path, *, in_order: bool, path: str) -> Path:
    """Run the grid on nodes without decoded photographs, print what it took and return the run folder of the driver.

    Args:
        cluster: The nodes.
        bucket: URL of run folders.
        file: The sweep file, named after its sweep.
        in_order: Hand out the trials in the order of the grid, whatever the nodes have decoded.
        path: PYTHONPATH of the driver, whose decoder is not slow.
    """
    caches = {one.name: Path(one.environment["WHALE_RAY_CACHE"]) / "pixels" for one in cluster.started[1:]}
    for cache in caches.values():
        shutil.rmtree(cache, ignore_errors=True)
    command = [sys.executable, *(("-c", IN_ORDER) if in_order else ("-m", "whale_ray.sweep"))]
    command += [str(file), "--runs", bucket, "--address", cluster.address]
    used, begun = processor_seconds(cluster), time.monotonic()
    ran = subprocess.run(
        command,
        env=cluster.head.environment | {"PYTHONPATH": path},
        cwd=cluster.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds, used = time.monotonic() - begun, processor_seconds(cluster) - used
    assert ran.returncode == 0, ran.stdout + ran.stderr
    counts = {node: sum(one.is_dir() for one in cache.glob("*")) for node, cache in caches.items()}
    order = "in the order of the grid" if in_order else "placed"
    typer.echo(f"{order}: {seconds:.1f} s, {used:.1f} s of a core on the nodes; geometries decoded: {counts}")
    (mirror,) = cluster.folder.glob(f"driver/cache/runs/*/{file.stem}")
    trials = {node: len(list(cache.parent.glob(f"runs/*/{file.stem}/trials/*"))) for node, cache in caches.items()}
    typer.echo(f"  trials by node: {trials}; load {os.getloadavg()[0]:.0f}")
    return mirror


def main(
    nodes: Nodes = 3,
    rates: Annotated[int, typer.Option(help="Learning rates of the grid; three image sizes each.")] = 4,
    epochs: Epochs = 6,
    wait: Annotated[
        float, typer.Option(help="Seconds that the decoder of a node waits for each of 72 pictures.")
    ] = 0.5,
    rounds: Annotated[int, typer.Option(help="Pairs of runs.")] = 1,
) -> None:
    """Run the grid in its order and placed, in pairs on the same nodes, and compare the tables."""
    path = os.environ.get("PYTHONPATH", "")
    slow = Path(__file__).with_name("__pycache__") / f"slow_decoder_{os.getpid()}"
    slow.mkdir(parents=True)
    (slow / "sitecustomize.py").write_text(SLOW_DECODER.replace("SECONDS", str(wait)))
    os.environ["PYTHONPATH"] = f"{slow}:{path}"
    try:
        with cluster_on_s3(nodes, "") as (cluster, bucket):
            photographs = draw_photographs(cluster.folder / "drawn")
            for number in range(rounds):
                runs = []
                for order in ("ordered", "placed"):
                    name = f"{order}{number}"
                    file = cluster.folder / f"{name}.yaml"
                    write_sweep(file, photographs, trials=rates, epochs=epochs, name=name, image_size=IMAGE_SIZES)
                    runs.append(run_grid(cluster, bucket, file, in_order=order == "ordered", path=path))
                typer.echo(f"  the tables of {compare(*runs, together=None)} trials are equal to the last digit")
    finally:
        shutil.rmtree(slow)


if __name__ == "__main__":
    typer.run(main)
