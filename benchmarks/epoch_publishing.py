"""Benchmark of what an epoch costs if its checkpoint is published to S3, against a local run folder.

Both trials train in this process; an epoch is what is between two reports. Its processor time is that of all threads of
this process, so that the server, which is another machine in practice, does not count. Goal: at most 5 % more.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
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


def time_epochs(file: Path, runs: str, *, cache: Path | None) -> tuple[list[Epoch], float]:
    """Return the times of each epoch but the first, and the megabytes of the checkpoint.

    Args:
        file: The sweep file.
        runs: Folder or URL of run folders.
        cache: Cache of the node that does not see the driver's disk; None trains in the run folder.
    """
    from whale_ray.sweep.config.sweep_spec import load_sweep
    from whale_ray.sweep.execution.driver import run_sweep
    from whale_ray.sweep.execution.runners import in_process_runner
    from whale_ray.sweep.run_store.trial_files import published_trial
    from whale_ray.sweep.trial_reports import HEARTBEAT
    from whale_ray.sweep.trials.worker import run_trial

    ends: dict[str, list[Epoch]] = {}
    sizes = [0.0]

    def run(trial: str, job: Any, *, report: Callable[[dict[str, Any]], object], node: str) -> None:
        def timed(place: Any) -> Callable[[dict[str, Any]], object]:
            def report_epoch(figures: dict[str, Any]) -> object:
                if HEARTBEAT in figures:
                    return None
                state = place / "trials" / trial / "checkpoint" / "state.pt"
                sizes.append(state.stat().st_size / 1e6 if state.exists() else 0.0)
                answer = report(figures)
                ends.setdefault(trial, []).append(Epoch(time.perf_counter(), time.process_time()))
                return answer

            return report_epoch

        if cache is None:
            run_trial(trial, job, report=timed(job.folder), node=node)
            return
        remote = dataclasses.replace(job.remote, folder=Path("/not_here"))
        with mock.patch.dict(os.environ, {"WHALE_RAY_CACHE": str(cache)}):
            from whale_ray.sweep.run_store.run_download import mirror_folder

            after = timed(mirror_folder(remote.url))
            with published_trial(remote, job.folder, trial, after) as place:
                here = dataclasses.replace(job, folder=place.folder)
                run_trial(trial, here, report=place.report, node=node, on_beat=place.on_beat)

    with mock.patch.object(in_process_runner, "run_trial", run):
        run_sweep(load_sweep(file, []), runs=runs, in_process=True)
    trained = max(ends.values(), key=len)
    pairs = pairwise(trained[:-1])
    return [Epoch(later.time - sooner.time, later.processor - sooner.processor) for sooner, later in pairs], max(sizes)


def main(
    encoder: Annotated[str, typer.Option(help="Encoder of the trial.")] = "torchvision:resnet18",
    images: Annotated[int, typer.Option(help="Photographs that are drawn.")] = 400,
    epochs: Annotated[int, typer.Option(help="Epochs of each trial.")] = 4,
    rounds: Annotated[int, typer.Option(help="How often both are measured.")] = 2,
    server: Annotated[
        Literal["memory", "moto"], typer.Option(help="The S3; moto takes seconds for 100 MB.")
    ] = "memory",
) -> None:
    """Train alternately with a local run folder and one in S3, and compare the medians of the epochs."""
    from whale_ray.data.synthetic.dataset import draw_dataset

    with tempfile.TemporaryDirectory(prefix="wr") as name, ExitStack() as stack:
        folder = Path(name)
        endpoint = stack.enter_context(memory_s3(folder) if server == "memory" else moto(folder))
        draw_dataset(folder / "drawn", individuals=20, images=images, difficulty=0.2, size=(64, 128), workers=1)
        keys = {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        os.environ |= {**keys, "WHALE_RAY_CACHE": str(folder / "cache")}
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/runs", method="PUT"))
        text = SWEEP.replace("ROOT", str(folder / "drawn")).replace("ENCODER", encoder).replace("EPOCHS", str(epochs))
        ratios: list[Epoch] = []
        for number in range(rounds):
            file = folder / f"round{number}.yaml"
            file.write_text(text.replace("NAME", file.stem))
            local, size = time_epochs(file, str(folder / "local"), cache=None)
            published, _ = time_epochs(file, "s3://runs", cache=folder / "node")
            here, there = median_of(local), median_of(published)
            ratios.append(Epoch(there.time / here.time, there.processor / here.processor))
            typer.echo(
                f"round {number}: local {here.time:.3f} s, S3 {there.time:.3f} s an epoch; "
                f"processor {here.processor:.3f} s and {there.processor:.3f} s"
            )
        both = median_of(ratios)
        typer.echo(
            f"{encoder}, checkpoint of {size:.1f} MB: median ratio of times {both.time:.3f}, of processor times "
            f"{both.processor:.3f} (goal {GOAL})"
        )


def median_of(epochs: Sequence[Epoch]) -> Epoch:
    """Return the medians of both times."""
    return Epoch(median(one.time for one in epochs), median(one.processor for one in epochs))


if __name__ == "__main__":
    typer.run(main)
