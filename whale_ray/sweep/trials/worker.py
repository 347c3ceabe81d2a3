"""One trial in a worker: its heartbeat, its errors and its result.

A trial's folder holds all its results; the driver and the next sweep read nothing else: settings.json, epochs.csv,
retrieval.csv, queries.parquet, embeddings.npz, checkpoint/, result.json (written last).
"""

from __future__ import annotations

import dataclasses
import gc
import os
import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from whale_ray.atomic_files import write_atomically
from whale_ray.device import available_device, restored_threads
from whale_ray.errors import WhaleRayError
from whale_ray.file_errors import is_disk_full
from whale_ray.sweep.planning.node_checks import UnfitNodeError, check_run_folder
from whale_ray.sweep.planning.resume import write_end
from whale_ray.sweep.run_folder.heartbeat import Heartbeat
from whale_ray.sweep.run_folder.records import NEEDS_WHOLE_GPU, read_record
from whale_ray.sweep.run_store.trial_files import UnreachableStoreError, published_trial
from whale_ray.sweep.trial_reports import NODE, UNFIT_NODE
from whale_ray.sweep.trials.distributed.distributed_run import DistributedRun, WorkerLostError
from whale_ray.sweep.trials.ensemble import MEMBERS, join_members
from whale_ray.sweep.trials.trial_run import FOLDS, SweepContext, TrialRun

# PyTorch's allocator: "CUDA out of memory"; a context without memory: "CUDA error: out of memory"; its libraries:
# "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED".
_OUT_OF_MEMORY = ("CUDA out of memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")


def run_trial_on_ray(config: Mapping[str, Any], context: SweepContext) -> None:
    """Run a trial in a worker of Ray Tune and report its epochs to Tune.

    Args:
        config: What Ray Tune passes on; `trial` is the trial's ID, `geometry` that of its photographs.
        context: What all trials of the sweep share.
    """
    import ray
    from ray import tune

    # Tune hands this process on to another trial when this one has ended; with its default of 2 s, a busy machine
    # loses the other trial.
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "120")
    # Relative paths in settings start from the folder of the driver; Tune has moved the worker elsewhere.
    os.chdir(context.working_folder)
    node = ray.get_runtime_context().get_node_id()
    prepare = TrialRun if context.workers == 1 else DistributedRun
    trial, trains = config["trial"], context.workers == 1

    def report(figures: dict[str, Any]) -> None:
        tune.report({**figures, NODE: node})

    try:
        if context.remote is None:
            check_run_folder(context.folder, trial)
        if trains:
            context = context.on_this_node(config.get("geometry"))
        with published_trial(context.remote, context.folder, trial, report, trains=trains) as place:
            here = dataclasses.replace(context, folder=place.folder, remote=place.remote)
            run_trial(trial, here, report=place.report, node=node, prepare=prepare, on_beat=place.on_beat)
    except (UnfitNodeError, UnreachableStoreError) as error:
        report({UNFIT_NODE: node, "note": str(error), "epoch": 0, "done": True, context.scoring.objective: 0.0})


class Run(Protocol):
    """A trial that can be run: in this process, or with several workers.

    Attributes:
        settings: Settings of the trial.
        earlier_seconds: Training time before this process, in seconds.
    """

    settings: dict[str, Any]
    earlier_seconds: float

    def run(self, report: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Train and score the trial and return its result, calling `report` with each new epoch."""
        raise NotImplementedError


class PrepareRun(Protocol):
    """Prepares the run of a trial."""

    def __call__(self, trial: str, context: SweepContext, *, on_batch: Callable[[], None]) -> Run:
        """Return the run of a trial, which calls `on_batch` before each batch."""
        raise NotImplementedError


def run_trial(
    trial: str,
    context: SweepContext,
    *,
    report: Callable[[dict[str, Any]], object],
    node: str,
    prepare: PrepareRun = TrialRun,
    on_beat: Callable[[dict[str, Any]], object] = lambda place: None,
) -> None:
    """Train, score and record a trial; errors are recorded, not raised.

    A trial that has its result already (it was given up, but started again) does nothing. If the disk is full, no
    result is written: the trial stays unfinished.

    Args:
        trial: ID of the trial.
        context: What all trials of the sweep share.
        report: Called with the figures of each new epoch, and at the end with `done`.
        node: ID of the Ray node; "" outside of Ray.
        prepare: Prepares the run of the trial.
        on_beat: Called with process and node of the trial while it is alive.

    Raises:
        WorkerLostError: If a worker of the trial has been killed; the trial can be started again.
    """
    folder = context.trial_folder(trial)
    result: dict[str, Any] = {}
    try:
        with Heartbeat(folder, node=node, on_beat=on_beat) as heartbeat:
            if not (folder / "result.json").exists():
                result = _run_and_record(trial, context, heartbeat, report, prepare)
    except Exception as error:
        if not is_disk_full(error):
            raise
        result = {"no_room": str(error)}
    finally:
        _release_memory()  # also if the trial is stopped: the next one may share the process
    score = result.get(context.scoring.objective) or 0.0
    end = {"epoch": result.get("epochs", 0), "no_room": result.get("no_room", "")}
    report({**end, "done": True, context.scoring.objective: score})


def _run_and_record(
    trial: str,
    context: SweepContext,
    heartbeat: Heartbeat,
    report: Callable[[dict[str, Any]], object],
    prepare: PrepareRun,
) -> dict[str, Any]:
    """Return the trial's result, written; {} without writing anything if the trial is to be tried again."""
    folder = context.trial_folder(trial)
    started = time.perf_counter()
    run = None
    try:
        run = prepare(trial, context, on_batch=heartbeat.beat)
        result = run.run(lambda row: report(_without_none(row))) | {"status": "finished", "error": ""}
    except Exception as error:
        if is_disk_full(error) or isinstance(error, WorkerLostError):
            raise
        write_atomically(folder / "traceback.txt", traceback.format_exc())
        if may_fit_alone(error, gpus=context.gpus) and not (folder / NEEDS_WHOLE_GPU).exists():
            write_atomically(folder / NEEDS_WHOLE_GPU, "the GPU's memory did not suffice beside other trials\n")
            return {}
        result = {"status": "failed", "error": _first_line(error)}
    result["seconds"] = time.perf_counter() - started + (run.earlier_seconds if run else 0.0)
    write_end(folder, result, run.settings if run else None)
    shutil.rmtree(folder / FOLDS, ignore_errors=True)
    return result


def may_fit_alone(error: Exception, *, gpus: float) -> bool:
    """Return whether a trial ran out of GPU memory while it shared the GPU.

    Args:
        error: An error of PyTorch, the CUDA context, cuBLAS or cuDNN.
        gpus: GPUs of the trial; a fraction is a share of one.
    """
    is_out_of_memory = any(word in str(error) for word in _OUT_OF_MEMORY)
    return isinstance(error, RuntimeError) and is_out_of_memory and 0 < gpus < 1


def _first_line(error: Exception) -> str:
    shown = str(error) if isinstance(error, WhaleRayError) else f"{type(error).__name__}: {error}"
    return shown.splitlines()[0] if shown else type(error).__name__


def _without_none(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are not None: a scheduler cannot compare a score that an epoch does not have."""
    return {name: value for name, value in row.items() if value is not None}


def retrain_on_all(trial: str, context: SweepContext, say: Callable[[str], None] = lambda text: None) -> Path:
    """Train a finished trial's encoder again, on training and validation photographs, and return its folder.

    The folder holds checkpoint/ and embeddings.npz; the scores stay those of the trial. An ensemble is made of its
    members, each trained again.

    Args:
        trial: ID of the trial.
        context: What all trials of the sweep share.
        say: Prints the progress.
    """
    folder = context.trial_folder(trial) / "retrained"
    if (folder / "embeddings.npz").exists():
        return folder
    members = read_record(context.trial_folder(trial)).settings.get(MEMBERS)
    if members:
        join_members([retrain_on_all(member, context, say) for member in members], folder)
    else:
        whole = dataclasses.replace(context, dataset=context.dataset.without_validation())
        say(f"for the bundle, trial {trial} is trained again on all photographs")
        # Runs in the driver, for which Ray reserves no GPU and whose machine may have none.
        with restored_threads():  # those of a trial; the steps that follow use all cores
            TrialRun(trial, whole, folder=folder, device=available_device(context.gpus)).retrain(
                lambda row: say(f"trial {trial} again: epoch {row['epoch']}, loss {row['loss']:.3f}")
            )
    return folder


def _release_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
