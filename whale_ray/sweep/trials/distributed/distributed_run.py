"""One trial trained by several workers: Ray Train starts them, the trial's own process passes on what they report.

The first worker trains, scores and writes like the single worker of other trials; the others train beside it. After
each epoch the first worker waits until the trial's process answers whether the trial continues, so that all workers of
a trial that early stopping ends have left before its process takes another one.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from whale_ray.device import reserved_device
from whale_ray.errors import first_line
from whale_ray.ray_private import torch_config
from whale_ray.sweep.planning.dataset import geometry_of
from whale_ray.sweep.planning.resume import write_end
from whale_ray.sweep.run_folder.heartbeat import Beat
from whale_ray.sweep.run_store.trial_files import UnpublishedTrialError, UnreachableStoreError, published_trial
from whale_ray.sweep.trial_reports import WORKERS
from whale_ray.sweep.trials.distributed.network_interface import name_interface
from whale_ray.sweep.trials.distributed.training_channel import open_channel, own_places
from whale_ray.sweep.trials.trial_run import SweepContext, TrialRun

Row = dict[str, Any]
_COLLECTIVE_SECONDS = 24 * 3600  # the others wait while the first worker scores; the heartbeat finds stalled trials
_POLL_SECONDS = 1.0
_BEAT, _REPORT, _RESULT = "beat", "report", "result"
_LOST_PEER = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "TCPStore")


class WorkerLostError(Exception):
    """A worker of a trial has been killed, or cannot reach the others."""


class _TrialStoppedError(Exception):
    """Leaves the training of a trial that early stopping or the user has ended."""


class DistributedRun:
    """Trains, scores and records one trial with several workers; has the interface of `TrialRun`.

    Args:
        trial: ID of the trial; its settings.json exists.
        context: What all trials of the sweep share.
        on_batch: Called while the workers start, and when they report that they are alive.

    Attributes:
        settings: Settings of the trial.
        earlier_seconds: Training time before these workers, in seconds.
    """

    def __init__(self, trial: str, context: SweepContext, *, on_batch: Callable[[], None]) -> None:
        self._trial, self._context, self._on_wait = trial, context, on_batch
        self._record = context.read_settings(trial)
        self.settings = self._record[1]
        self.earlier_seconds = 0.0

    def run(self, report: Callable[[Row], object]) -> Row:
        """Train, score and write the trial, and return its result.

        Args:
            report: Called with the row of each new epoch. If it raises, all workers end before it is raised again.

        Raises:
            WorkerLostError: If a worker, or the channel to the workers, has been killed before the result has come.
        """
        import ray

        name, channel = open_channel(self._trial)
        config = {"trial": self._trial, "record": self._record, "context": self._context, "channel": (name, channel)}
        training = _TrainingThread(config, workers=self._context.workers, resources=self._context.worker_resources)
        training.start()
        result: Row | None = None
        try:
            result = self._follow(channel, training, report)
        except BaseException:  # Tune ends a stopped trial by SystemExit
            channel.answer.remote(False)
            raise
        finally:
            training.join()
            ray.kill(channel)
        if result is None:
            training.raise_error()
            raise WorkerLostError("the workers ended without a result")
        return result

    def _follow(self, channel: Any, training: _TrainingThread, report: Callable[[Row], object]) -> Row | None:
        """Pass on the reports until the training has ended; return the result, None if it failed."""
        import ray

        has_started = False
        while True:
            has_ended = not training.is_alive()
            try:
                message = ray.get(channel.receive.remote(0.0 if has_ended else _POLL_SECONDS))
            except ray.exceptions.RayActorError as error:
                raise WorkerLostError(f"the channel to the workers is lost: {first_line(error)}") from error
            if message is None and has_ended:
                return None
            if message is None:
                if not has_started:
                    self._on_wait()
                continue
            kind, value = message
            has_started = True
            if kind == _BEAT:
                self._on_wait()
            if kind == _RESULT:
                self.earlier_seconds = value["earlier_seconds"]
                result: Row = value["result"]
                return result
            if kind == _REPORT:
                report(value)
                channel.answer.remote(True)


class _TrainingThread(threading.Thread):
    """Runs Ray Train's controller and waits for it, so that the trial's own thread can report to Tune."""

    def __init__(self, config: dict[str, Any], *, workers: int, resources: dict[str, float]) -> None:
        super().__init__(daemon=True)
        self._config, self._workers, self._resources = config, workers, resources
        self._error: Exception | None = None

    def run(self) -> None:
        """Train until all workers have ended."""
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        has_gpus = bool(self._resources.get("GPU"))
        os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"  # it would start all workers again by itself
        try:
            with tempfile.TemporaryDirectory(prefix="whale_ray_train_") as scratch:
                TorchTrainer(
                    train_as_worker,
                    train_loop_config=self._config,
                    # Objects are always broadcast on the CPU.
                    torch_config=torch_config(
                        name_interface,
                        backend="cpu:gloo,cuda:nccl" if has_gpus else "gloo",
                        timeout_s=_COLLECTIVE_SECONDS,
                    ),
                    scaling_config=ScalingConfig(
                        num_workers=self._workers, use_gpu=has_gpus, resources_per_worker=self._resources
                    ),
                    run_config=RunConfig(
                        name="trial",
                        storage_path=scratch,
                        # Workers that are lost with a warned node are the sweep's to start again, like all others.
                        failure_config=FailureConfig(max_failures=0, max_preemption_failures=0),
                    ),
                ).fit()
        except Exception as error:
            self._error = error

    def raise_error(self) -> None:
        """Raise what a worker raised.

        Raises:
            WorkerLostError: If a worker has been killed, or has lost the connection to a killed one.
        """
        if self._error is None:
            return
        failures = getattr(self._error, "worker_failures", {})
        own = [one for one in failures.values() if not is_lost_worker(one)]
        if not own:
            raise WorkerLostError(str(self._error)) from self._error
        raise own[0] from self._error


def is_lost_worker(error: BaseException) -> bool:
    """Return whether an error says that a worker has been killed, or did not reach the run store."""
    if isinstance(error, UnreachableStoreError | UnpublishedTrialError):
        return True
    if type(error).__module__.startswith("ray."):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _LOST_PEER)


def train_as_worker(config: dict[str, Any]) -> None:
    """Train a trial as one of its workers.

    Args:
        config: `trial`: ID of the trial; `record`: its kind and settings; `context`: what all trials of the sweep
            share; `channel`: name and handle of the actor that passes messages to the trial's process.
    """
    from ray import train
    from ray.train.torch import get_device

    from whale_ray.learning.training.worker_group import FirstWorkerError, WorkerGroup

    trial, context = config["trial"], config["context"]
    os.chdir(context.working_folder)  # relative paths in settings start from there; Ray Train has moved the worker
    _, settings = config["record"]
    context = context.on_this_node(geometry_of(settings["data"], settings["train"]))
    place = train.get_context()
    workers = WorkerGroup(place.get_world_rank(), place.get_world_size())
    device = "cpu" if reserved_device(context.gpus) == "cpu" else str(get_device())
    prepare = partial(TrialRun, trial, record=config["record"], device=device, workers=workers)
    if workers.is_first:
        _train_as_first(trial, context, config["channel"], prepare)
        return
    with tempfile.TemporaryDirectory(prefix="whale_ray_worker_") as scratch, suppress(FirstWorkerError):
        prepare(context, folder=Path(scratch)).assist()


def _train_as_first(
    trial: str, context: SweepContext, named_channel: tuple[str, Any], prepare: Callable[..., TrialRun]
) -> None:
    """Train, score and write the trial where it belongs on this node, which may be another than that of its process.

    The result is written here as well, so that the files that are published are those of a trial that has ended.
    """
    import ray

    name, channel = named_channel
    started = time.perf_counter()

    def report(row: Row) -> None:
        ray.get(channel.send.remote(_REPORT, row))
        if not ray.get(channel.wait_for_answer.remote()):
            raise _TrialStoppedError

    with suppress(_TrialStoppedError):
        report({WORKERS: {"channel": name, "places": own_places()}})
        with published_trial(context.remote, context.folder, trial, report) as place:
            here = dataclasses.replace(context, folder=place.folder)
            ray.get(channel.send.remote(_BEAT, None))
            beat = Beat(here.trial_folder(trial), on_beat=lambda: channel.send.remote(_BEAT, None))
            run = prepare(here, on_batch=beat)
            result = run.run(place.report)
            seconds = time.perf_counter() - started + run.earlier_seconds
            end = {**result, "status": "finished", "error": "", "seconds": seconds}
            write_end(here.trial_folder(trial), end, run.settings)
        ray.get(channel.send.remote(_RESULT, {"result": result, "earlier_seconds": run.earlier_seconds}))
