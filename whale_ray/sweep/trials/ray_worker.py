"""One trial on a Ray worker: run, watched, and its outcome written down whatever happens.

A trial's folder is all that is left of it; the driver and the next sweep read nothing else:
settings.json, epochs.csv, retrieval.csv, queries.parquet, embeddings.npz, checkpoint/, result.json (written last).
"""

from __future__ import annotations

import dataclasses
import gc
import os
import shutil
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whale_ray.atomic_files import write_atomically
from whale_ray.device import available_device
from whale_ray.errors import WhaleRayError
from whale_ray.sweep.planning.resume import can_be_continued
from whale_ray.sweep.run_folder.checkpoints import drop_state
from whale_ray.sweep.run_folder.liveness import ALONE, Pulse, is_no_room
from whale_ray.sweep.run_folder.records import read_record, write_result
from whale_ray.sweep.trials.ensemble import MEMBERS, join_members
from whale_ray.sweep.trials.trial_job import FOLDS, Job, Work

# torch's own allocator: "CUDA out of memory"; a context that finds no room: "CUDA error: out of memory"; its libraries:
# "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED".
_NO_MEMORY = ("CUDA out of memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")


def run_trial(config: Mapping[str, Any], job: Job) -> None:
    """Trains, scores and records the trial that `config` names; what goes wrong is recorded, not raised.

    A trial that has its result already (it was given up, and is started again all the same) does nothing. Without
    room on the disk there is no result either: the trial is unfinished.
    """
    import ray
    from ray import tune

    # Tune hands this process on to another trial when this one has ended; with the 2 s it waits by default, a busy
    # machine makes it lose the other trial.
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "120")
    # Paths in settings are relative to where the sweep was typed; Tune has moved the worker elsewhere.
    os.chdir(job.working_folder)
    folder = job.trial_folder(config["trial"])
    result: dict[str, Any] = {}
    try:
        with Pulse(folder, node=ray.get_runtime_context().get_node_id()) as pulse:
            if not (folder / "result.json").exists():
                result = _outcome(config["trial"], job, pulse)
    except Exception as error:
        if not is_no_room(error):
            raise
        result = {"no_room": str(error)}
    finally:
        _release_memory()  # also where Tune ends the trial: the next one may share the process
    score = result.get(job.scoring.objective) or 0.0
    end = {"epoch": result.get("epochs", 0), "no_room": result.get("no_room", "")}
    tune.report({**end, "done": True, job.scoring.objective: score})


def _outcome(trial: str, job: Job, pulse: Pulse) -> dict[str, Any]:
    """The trial's result, written; nothing is written, and {} returned, where it is to be tried again."""
    from ray import tune

    folder = job.trial_folder(trial)
    started = time.perf_counter()
    work = None
    try:
        work = Work(trial, job, on_batch=pulse.beat)
        result = work.run(lambda figures: tune.report(_present(figures))) | {"status": "finished", "error": ""}
    except Exception as error:
        if is_no_room(error):
            raise
        write_atomically(folder / "traceback.txt", traceback.format_exc())
        if may_fit_alone(error, gpus=job.gpus) and not (folder / ALONE).exists():
            write_atomically(folder / ALONE, "the GPU's memory did not suffice beside other trials\n")
            return {}
        result = {"status": "failed", "error": _first_line(error)}
    result["seconds"] = time.perf_counter() - started + (work.earlier_seconds if work else 0.0)
    write_result(folder, result)
    shutil.rmtree(folder / FOLDS, ignore_errors=True)
    if work is None or not can_be_continued(work.settings):
        drop_state(folder / "checkpoint")
    return result


def may_fit_alone(error: Exception, *, gpus: float) -> bool:
    """Whether a GPU of which a trial had this share was too small: for torch, its context, cuBLAS or cuDNN."""
    short = any(word in str(error) for word in _NO_MEMORY)
    return isinstance(error, RuntimeError) and short and 0 < gpus < 1


def _first_line(error: Exception) -> str:
    shown = str(error) if isinstance(error, WhaleRayError) else f"{type(error).__name__}: {error}"
    return shown.splitlines()[0] if shown else type(error).__name__


def _present(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Figures that there are: a scheduler cannot compare a score that an epoch does not have."""
    return {name: value for name, value in figures.items() if value is not None}


def retrain_on_all(trial: str, job: Job) -> Path:
    """The folder of a finished trial's encoder, trained again at its settings on training and validation photographs.

    It holds checkpoint/ and embeddings.npz as a trial's folder does; scores are still those of the trial.
    """
    folder = job.trial_folder(trial) / "retrained"
    if (folder / "embeddings.npz").exists():
        return folder
    members = read_record(job.trial_folder(trial)).settings.get(MEMBERS)
    if members:
        join_members([retrain_on_all(member, job) for member in members], folder)
    else:
        whole = dataclasses.replace(job, dataset=job.dataset.without_validation())
        # in the driver, for which nothing is reserved, and which may stand where no GPU is
        Work(trial, whole, folder=folder, device=available_device(job.gpus)).retrain()
    return folder


def _release_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
