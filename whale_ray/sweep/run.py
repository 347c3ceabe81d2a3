"""One sweep from its settings to its bundle: the driver, and all that is Ray's about it.

Prepares the data once, hands trials to Ray Tune, lets the ledger settle each that ends, and makes the bundle.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from ray import tune
from ray.tune.search import Searcher

from whale_ray.sweep.cluster import connected, slots
from whale_ray.sweep.dataset import Dataset
from whale_ray.sweep.leaderboard import finished_trials, write_leaderboard
from whale_ray.sweep.ledger import Ledger, forget_failed
from whale_ray.sweep.plan import label, longest_training
from whale_ray.sweep.preparation import check_inputs, prepare_dataset, write_inputs
from whale_ray.sweep.progress import Progress
from whale_ray.sweep.report import write_report
from whale_ray.sweep.runfolder import claimed
from whale_ray.sweep.scores import scoring_of
from whale_ray.sweep.spec import Sweep
from whale_ray.sweep.trial import retrain_on_all, run_trial
from whale_ray.sweep.winner import make_best_bundle
from whale_ray.sweep.work import Job

_WORKER_LOSSES = 2


@dataclass(frozen=True)
class SweepResult:
    """What a sweep left: its run folder, its leaderboard, its best bundle (None where no trial finished)."""

    folder: Path
    table: pd.DataFrame
    bundle: Path | None
    report: Path
    interrupted: bool

    @property
    def exit_code(self) -> int:
        """0 all trials ended as meant; 3 a bundle, but some failed; 1 no bundle; 130 interrupted."""
        if self.interrupted:
            return 130
        if self.bundle is None:
            return 1
        return 3 if (self.table["status"] == "failed").any() else 0


def run_sweep(
    sweep: Sweep,
    *,
    runs: Path | str = "runs",
    address: str | None = None,
    fresh: bool = False,
    retry_failed: bool = False,
    progress: Progress | None = None,
    stopping: threading.Event | None = None,
) -> SweepResult:
    """What the run folder holds when everything that was missing of the sweep has run.

    stopping: when it is set, trials are ended after what they have checkpointed, and the result says interrupted.
    Raises: InputError, before anything is started, for what cannot work.
    """
    progress = progress or Progress(sweep=sweep.name, objective=sweep.fixed["search.objective"])
    stopping = stopping or threading.Event()
    check_inputs(sweep)
    dataset = prepare_dataset(sweep, progress)
    with claimed(Path(runs) / sweep.name, fresh=fresh) as folder:
        if retry_failed:
            forget_failed(folder)
        ledger = Ledger(sweep, folder, data_fingerprint=dataset.fingerprint)
        if ledger.rescored:
            progress.say(
                f"{ledger.rescored} trials scored anew from their embeddings: the sweep asks for other settings"
            )
        write_inputs(sweep, dataset, folder)
        job = _job(sweep, dataset, folder)
        with connected(address, say=progress.say), progress:
            _tune(sweep, job, ledger, progress, stopping)
        return _conclude(sweep, job, ledger, interrupted=stopping.is_set(), say=progress.say)


def _job(sweep: Sweep, dataset: Dataset, folder: Path) -> Job:
    fixed = sweep.fixed
    return Job(
        sweep=sweep.name,
        folder=folder.resolve(),
        working_folder=Path.cwd(),
        dataset=dataset,
        scoring=scoring_of(sweep),
        threads=max(1, int(fixed["resources.cpus"])),
        gpu=fixed["resources.gpus"] > 0,
        wandb=fixed["tracking.wandb"],
        wandb_project=fixed["tracking.wandb_project"],
    )


def _tune(sweep: Sweep, job: Job, ledger: Ledger, progress: Progress, stopping: threading.Event) -> None:
    resources = {"CPU": sweep.fixed["resources.cpus"], "GPU": sweep.fixed["resources.gpus"]}
    room = slots(resources)
    trainable = tune.with_resources(tune.with_parameters(run_trial, job=job), resources)
    with tempfile.TemporaryDirectory(prefix="whale_ray_tune_") as scratch:
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=_Queue(ledger.trials()),
                scheduler=_scheduler(sweep),
                num_samples=-1,
                max_concurrent_trials=room,
                reuse_actors=True,
                trial_name_creator=_trial_id,
                trial_dirname_creator=_trial_id,
            ),
            run_config=tune.RunConfig(
                name=sweep.name,
                storage_path=scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=_WORKER_LOSSES),
                callbacks=[_Watch(ledger, progress, stopping)],
                stop=_StopWhen(stopping),
            ),
        ).fit()


def _trial_id(trial: Any) -> str:
    return str(trial.config["trial"])


def _scheduler(sweep: Sweep) -> Any:
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    if sweep.fixed["search.scheduler"] == "none":
        return FIFOScheduler()
    return ASHAScheduler(
        time_attr="epoch",
        metric=sweep.fixed["search.objective"],
        mode="max",
        max_t=longest_training(sweep) + 1,
        grace_period=sweep.fixed["search.grace_epochs"],
        reduction_factor=sweep.fixed["search.reduction_factor"],
    )


def _conclude(sweep: Sweep, job: Job, ledger: Ledger, *, interrupted: bool, say: Callable[[str], None]) -> SweepResult:
    table = ledger.leaderboard()
    write_leaderboard(table, ledger.folder / "leaderboard.csv")
    retrain = sweep.fixed["bundle.retrain_on_all"] and not interrupted
    bundle = make_best_bundle(
        map(ledger.record, finished_trials(table)),
        job.dataset,
        run=ledger.folder,
        say=say,
        retrain=(lambda trial: retrain_on_all(trial, job)) if retrain else None,
        examples=sweep.fixed["bundle.examples"],
        thumbnails=sweep.fixed["bundle.thumbnails"],
    )
    return SweepResult(ledger.folder, table, bundle, write_report(ledger.folder), interrupted)


class _Unsaved:
    """What Tune would write into its own state, which is never read: the run folder is the state."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Queue(_Unsaved, Searcher):
    """Hands the ids of trials to Ray Tune, one when there is room for one; keeps no state of its own."""

    def __init__(self, ids: Iterator[str]) -> None:
        super().__init__()
        self._ids = ids

    def suggest(self, trial_id: str) -> dict[str, str] | str:
        """The next trial's config, or the word that there is none."""
        following = next(self._ids, None)
        return Searcher.FINISHED if following is None else {"trial": following}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Does nothing: the run folder says what became of a trial."""

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: the run folder is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing: the run folder is the state."""

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Accepts whatever Tune says: the space is ours."""
        return True


class _Watch(_Unsaved, tune.Callback):
    """Passes on what Tune sees, to the person who watches and to the ledger."""

    def __init__(self, ledger: Ledger, progress: Progress, stopping: threading.Event) -> None:
        self._ledger, self._progress, self._stopping = ledger, progress, stopping

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial begins."""
        record = self._ledger.record(_trial_id(trial))
        self._progress.started(record.trial, label(record.point, kind=record.kind))

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """A trial reports an epoch."""
        self._progress.epoch(_trial_id(trial), result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has ended: by itself, or stopped by the scheduler or by a person."""
        record = self._ledger.record(_trial_id(trial))
        if record.status != "running" or not self._stopping.is_set():
            self._settle(trial, status="pruned")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's worker was lost for good."""
        self._settle(trial, status="failed", error=f"its worker was lost {_WORKER_LOSSES + 1} times")

    def _settle(self, trial: Any, *, status: str, error: str = "") -> None:
        record = self._ledger.settle(_trial_id(trial), status=status, error=error)
        score, reason = record.result.get(self._ledger.objective), record.result.get("error", "")
        self._progress.ended(record.trial, status=record.status, score=score, error=reason)


class _StopWhen(_Unsaved, tune.Stopper):
    """Ends all trials when the event is set."""

    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never: a trial ends by itself."""
        return False

    def stop_all(self) -> bool:
        """Whether a person asked to stop."""
        return self._event.is_set()
