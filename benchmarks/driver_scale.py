"""Benchmark of the driver with many trials: seconds of its processor and memory per recorded trial, and the report.

A stand-in replaces the training: it copies the files of one real trial and writes scores that differ from trial to
trial. Queue, study, records, leaderboard, live report, best bundle and final report are those of a sweep.
"""

from __future__ import annotations

import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

SWEEP = """
name: scale
data: {root: ROOT, image_size: 16x32, group_column: Encounter}
model: {encoder: tiny, weights: random, embedding_size: 8}
loss: {name: [arcface, proxy_anchor]}
train: {epochs: 1, batch_size: [16, 32], learning_rate: {low: 1.0e-4, high: 1.0e-1, log: true}}
retrieval: {neighbours: [1, 5], vote: [nearest, softmax]}
search: {strategy: STRATEGY, trials: TRIALS}
resources: {cpus: 1}
bundle: {runtime: torch}
"""
_FILES = ("epochs.csv", "retrieval.csv", "queries.parquet", "embeddings.npz")


class Recorder:
    """Prints the processor seconds and memory of this process per recorded trial, over each block of trials.

    Args:
        block: Trials per line.
    """

    def __init__(self, block: int) -> None:
        self._block, self._count = block, 0
        self._last = (time.process_time(), time.perf_counter())

    def __call__(self) -> None:
        """Count a trial as recorded."""
        self._count += 1
        if self._count % self._block:
            return
        now = (time.process_time(), time.perf_counter())
        cpu, wall = ((after - before) / self._block for before, after in zip(self._last, now, strict=True))
        self._last = now
        memory = resident_bytes() / 2**20
        typer.echo(
            f"{self._count} trials: {1000 * cpu:.0f} ms of the driver's processor and {1000 * wall:.0f} ms per trial, "
            f"{memory:.0f} MiB, {threading.active_count()} threads"
        )


def resident_bytes() -> int:
    """Return the resident memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def stand_in(template: Path) -> Callable[..., None]:
    """Return a function that takes the place of a trial and costs almost nothing.

    Args:
        template: Folder of a finished trial, whose files are copied.
    """

    def run_trial(trial: str, context: Any, *, report: Callable[[Mapping[str, Any]], object], **_: Any) -> None:
        from whale_ray.sweep.run_folder.records import read_record, write_result

        folder = context.trial_folder(trial)
        for name in _FILES:
            shutil.copyfile(template / name, folder / name)
        shutil.copytree(template / "checkpoint", folder / "checkpoint", dirs_exist_ok=True)
        result = read_record(template).result
        score = float(np.random.default_rng(int(trial[-8:], 16)).uniform(0.2, 0.9))
        report({"epoch": 1, "loss": 1.0, "recall@1": score})
        write_result(folder, {**result, "recall@1": score})
        report({"epoch": 1, "done": True, "recall@1": score})

    return run_trial


def run_real_trial(sweep: Any, runs: Path) -> Path:
    """Run a sweep of one trial and return the trial's folder.

    Args:
        sweep: The sweep.
        runs: Folder of run folders.
    """
    from whale_ray.sweep.execution.driver import run_sweep

    result = run_sweep(sweep, runs=runs, in_process=True)
    trial = result.table.loc[result.table["kind"] == "trial", "trial"].iloc[0]
    return result.folder / "trials" / str(trial)


def main(
    trials: Annotated[int, typer.Option(help="Number of trials.")] = 1000,
    strategy: Annotated[str, typer.Option(help="random or optuna.")] = "random",
    on_ray: Annotated[bool, typer.Option("--ray", help="Run the stand-in in workers of Ray Tune.")] = False,
    cpus: Annotated[int, typer.Option(help="Trials at once on Ray.")] = 4,
    block: Annotated[int, typer.Option(help="Trials per printed line.")] = 100,
    folder: Annotated[Path | None, typer.Option(help="Folder for the run; it is kept.")] = None,
) -> None:
    """Run a sweep of many trials that cost almost nothing."""
    from whale_ray.data.synthetic.dataset import draw_dataset
    from whale_ray.sweep.config.sweep_spec import load_sweep
    from whale_ray.sweep.execution import driver
    from whale_ray.sweep.execution.outcome_recorder import TrialOutcomes
    from whale_ray.sweep.execution.runners import in_process_runner, tune_runner

    place = folder or Path(tempfile.mkdtemp(prefix="whale_ray_scale_"))
    root = place / "drawn"
    if not root.exists():
        draw_dataset(root, individuals=8, images=72, difficulty=0.2, size=(32, 64), workers=1)
    file = place / "scale.yaml"
    file.write_text(SWEEP.replace("ROOT", str(root)).replace("STRATEGY", strategy).replace("TRIALS", str(trials)))
    run_one = stand_in(run_real_trial(load_sweep(file, ["search.trials=1", "name=one"]), place / "template"))
    settle, record = TrialOutcomes.settle, Recorder(block)

    def recorded(self: TrialOutcomes, *args: Any, **options: Any) -> Any:
        found = settle(self, *args, **options)
        record()
        return found

    def on_worker(config: Mapping[str, Any], context: Any) -> None:
        import ray
        from ray import tune

        from whale_ray.sweep.trial_reports import NODE

        node = ray.get_runtime_context().get_node_id()
        run_one(config["trial"], context, report=lambda figures: tune.report({**figures, NODE: node}))

    vars(in_process_runner)["run_trial"] = run_one
    vars(tune_runner)["run_trial_on_ray"] = on_worker
    TrialOutcomes.settle = recorded  # type: ignore[method-assign]
    started = time.perf_counter()
    if on_ray:
        import ray

        ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level=40)
    result = driver.run_sweep(load_sweep(file), runs=place / "runs", in_process=not on_ray)
    size = result.report.stat().st_size / 1e6
    typer.echo(f"{len(result.table)} trials in {time.perf_counter() - started:.0f} s; report of {size:.2f} MB")
    typer.echo(str(result.report))


if __name__ == "__main__":
    typer.run(main)
