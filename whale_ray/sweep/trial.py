"""One trial on a Ray worker: run, watched, and its outcome written down whatever happens.

A trial's folder is all that is left of it; the driver and the next sweep read nothing else:
settings.json, epochs.csv, retrieval.csv, queries.parquet, embeddings.npz, checkpoint/, result.json (written last).
"""

from __future__ import annotations

import dataclasses
import gc
import os
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whale_ray.durable import write_whole
from whale_ray.errors import WhaleRayError
from whale_ray.sweep.checkpoint import drop_state
from whale_ray.sweep.leaderboard import write_result
from whale_ray.sweep.work import Job, Work


def run_trial(config: Mapping[str, str], job: Job) -> None:
    """Trains, scores and records the trial that `config` names; what goes wrong is recorded, not raised."""
    from ray import tune

    # Paths in settings are relative to where the sweep was typed; Tune has moved the worker elsewhere.
    os.chdir(job.working_folder)
    folder = job.trial_folder(config["trial"])
    started = time.perf_counter()
    try:
        result = Work(config["trial"], job).run(lambda figures: tune.report(_present(figures)))
        result |= {"status": "finished", "error": ""}
    except Exception as error:
        write_whole(folder / "traceback.txt", traceback.format_exc())
        shown = str(error) if isinstance(error, WhaleRayError) else f"{type(error).__name__}: {error}"
        result = {"status": "failed", "error": shown.splitlines()[0] if shown else type(error).__name__}
    _release_memory()
    write_result(folder, {**result, "seconds": time.perf_counter() - started})
    drop_state(folder / "checkpoint")
    tune.report(
        {
            "epoch": result.get("epochs", 0),
            "done": True,
            job.scoring.objective: result.get(job.scoring.objective) or 0.0,
        }
    )


def _present(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Figures that there are: a scheduler cannot compare a score that an epoch does not have."""
    return {name: value for name, value in figures.items() if value is not None}


def retrain_on_all(trial: str, job: Job) -> Path:
    """The folder of a finished trial's encoder, trained again at its settings on training and validation photographs.

    It holds checkpoint/ and embeddings.npz as a trial's folder does; scores are still those of the trial.
    """
    table = job.dataset.table
    everything = table.assign(part=table["part"].replace("val", "train"))
    whole = dataclasses.replace(job, dataset=dataclasses.replace(job.dataset, table=everything))
    folder = job.trial_folder(trial) / "retrained"
    if not (folder / "embeddings.npz").exists():
        Work(trial, whole, folder=folder).retrain()
    return folder


def _release_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
