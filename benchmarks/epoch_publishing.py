"""Benchmark of what an epoch costs if the checkpoint of the one before it is uploaded to S3 meanwhile.

In one training, every second epoch is published, and each epoch during which a checkpoint is uploaded is compared with
the next one, during which none is. The processor time is that of all threads of this process, so that the server,
which is another machine in practice, does not count. Goal: at most 5 % more.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal, NamedTuple
from unittest import mock

import typer
from s3_cluster import memory_s3, moto

SWEEP = """
name: NAME
data: {root: ROOT, image_size: 48x96}
model: {encoder: ENCODER, weights: random, embedding_size: 64}
loss: {name: arcface}
train: {epochs: EPOCHS, batch_size: 32, learning_rate: [1.0e-3], evaluate_every: 100, precision: fp32}
retrieval: {neighbours: 1, vote: nearest}
search: {strategy: grid}
resources: {cpus: 1}
"""
GOAL = 1.05


class Epoch(NamedTuple):
    """Seconds of an epoch.

    Attributes:
        time: Time.
        processor: Processor time of all threads.
    """

    time: float
    processor: float


def time_epochs(file: Path, runs: str, cache: Path) -> tuple[list[Epoch], float]:
    """Return the times of all epochs but the first, and the megabytes of a checkpoint; the first, third, ... upload.

    Args:
        file: The sweep file.
        runs: URL of run folders.
        cache: Cache of a node that does not see the driver's disk.
    """
    from whale_ray.sweep.config.sweep_spec import load_sweep
    from whale_ray.sweep.execution.driver import run_sweep
    from whale_ray.sweep.execution.runners import in_process_runner
    from whale_ray.sweep.run_store import trial_files
    from whale_ray.sweep.run_store.publisher import Publisher
    from whale_ray.sweep.trial_reports import HEARTBEAT
    from whale_ray.sweep.trials.worker import run_trial

    ends: dict[str, list[Epoch]] = {}
    sizes = [0.0]

    class HalfPublisher(Publisher):
        epochs = 0

        def publish_epoch(self) -> None:
            self.epochs += 1
            if self.epochs % 2:
                super().publish_epoch()

        def _push(self, *, thorough: bool = False) -> bool:
            return super()._push(thorough=thorough) if thorough or self._is_due() else True

    def run(trial: str, job: Any, *, report: Callable[[dict[str, Any]], object], node: str) -> None:
        def timed(figures: dict[str, Any]) -> object:
            if HEARTBEAT in figures:
                return None
            state = place.folder / "trials" / trial / "checkpoint" / "state.pt"
            sizes.append(state.stat().st_size / 1e6 if state.exists() else 0.0)
            answer = report(figures)
            ends.setdefault(trial, []).append(Epoch(time.perf_counter(), time.process_time()))
            return answer

        remote = dataclasses.replace(job.remote, folder=Path("/not_here"))
        with (
            mock.patch.dict(os.environ, {"WHALE_RAY_CACHE": str(cache)}),
            trial_files.published_trial(remote, job.folder, trial, timed) as place,
        ):
            here = dataclasses.replace(job, folder=place.folder)
            run_trial(trial, here, report=place.report, node=node, on_beat=place.on_beat)

    with (
        mock.patch.object(in_process_runner, "run_trial", run),
        mock.patch.object(trial_files, "Publisher", HalfPublisher),
    ):
        run_sweep(load_sweep(file, []), runs=runs, in_process=True)
    trained = max(ends.values(), key=len)[:-1]  # the last one is the end of the trial
    return [Epoch(*(b - a for a, b in zip(*pair, strict=True))) for pair in pairwise(trained)], max(sizes)


def main(
    encoder: Annotated[str, typer.Option(help="Encoder of the trial.")] = "torchvision:resnet18",
    images: Annotated[int, typer.Option(help="Photographs that are drawn; an epoch takes longer with more.")] = 400,
    pairs: Annotated[int, typer.Option(help="Pairs of an epoch that uploads and one that does not.")] = 10,
    server: Annotated[
        Literal["memory", "moto"], typer.Option(help="The S3; moto takes seconds for 100 MB.")
    ] = "memory",
) -> None:
    """Train once, upload during every second epoch, and compare each with the next one."""
    from whale_ray.data.synthetic.dataset import draw_dataset

    with tempfile.TemporaryDirectory(prefix="wr") as name, ExitStack() as stack:
        folder = Path(name)
        endpoint = stack.enter_context(memory_s3(folder) if server == "memory" else moto(folder))
        draw_dataset(folder / "drawn", individuals=20, images=images, difficulty=0.2, size=(64, 128), workers=1)
        keys = {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        os.environ |= {**keys, "WHALE_RAY_CACHE": str(folder / "cache")}
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/runs", method="PUT"))
        file = folder / "publishing.yaml"
        text = SWEEP.replace("NAME", file.stem).replace("ROOT", str(folder / "drawn"))
        file.write_text(text.replace("ENCODER", encoder).replace("EPOCHS", str(2 * pairs + 1)))
        times, size = time_epochs(file, "s3://runs", folder / "node")
    uploading, quiet = times[::2], times[1::2]
    for field in Epoch._fields:
        both = [(getattr(a, field), getattr(b, field)) for a, b in zip(uploading, quiet, strict=True)]
        ratios, added = sorted(a / b for a, b in both), sorted(a - b for a, b in both)
        low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
        typer.echo(
            f"{encoder}, {size:.1f} MB, {field}: {median(b for _, b in both):.3f} s without an upload, "
            f"{median(added):+.3f} s with one; median ratio {median(ratios):.3f} (quartiles {low:.3f} and {high:.3f}), "
            f"goal {GOAL}"
        )


if __name__ == "__main__":
    typer.run(main)
