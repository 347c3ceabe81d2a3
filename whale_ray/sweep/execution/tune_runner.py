"""All that is Ray Tune's about a sweep: its queue of trials, who is stopped early, what is done when one ends.

Passes on what Tune sees; what a trial is and what becomes of it is the ledger's. Tune's own state is never read.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from typing import Any

from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from whale_ray.atomic_files import write_atomically
from whale_ray.sweep.execution.console import Progress
from whale_ray.sweep.execution.prometheus import Metrics
from whale_ray.sweep.execution.ray_cluster import check_gpu, end_worker, slots
from whale_ray.sweep.execution.trial_ledger import Ledger
from whale_ray.sweep.planning.dry_run import planned_runs
from whale_ray.sweep.planning.trial_settings import epochs_of, label
from whale_ray.sweep.report.live import LiveReport
from whale_ray.sweep.run_folder.liveness import ALONE, Stalls, free_gigabytes, where_it_runs
from whale_ray.sweep.trials.ray_worker import run_trial
from whale_ray.sweep.trials.trial_job import Job

WORKER_LOSSES = 2
_STALLS = 2


def run_trials(ledger: Ledger, job: Job, progress: Progress, stopping: threading.Event) -> None:
    """Runs what the ledger has to run, on the cluster that Ray is connected to, until it has no more.

    stopping: when it is set, trials end with what they have checkpointed.
    Raises: InputError where the cluster has not even room for one trial, or torch cannot use its GPU.
    """
    fixed = ledger.sweep.fixed
    share = {"CPU": fixed["resources.cpus"], "GPU": fixed["resources.gpus"]}
    room = slots(share)
    check_gpu(share["GPU"], say=progress.say, stopping=stopping)
    trainable = tune.with_parameters(run_trial, job=job)
    trainable.__name__ = f"{ledger.sweep.name}: a trial at a time"  # how Ray's dashboard calls the actors
    records = [record for record in ledger.records() if record.status != "running"]
    metrics = Metrics(
        sweep=ledger.sweep.name,
        objective=ledger.objective,
        total=planned_runs(ledger.sweep),
        before=[(record.status, record.result.get(ledger.objective)) for record in records],
    )
    with (
        tempfile.TemporaryDirectory(prefix="whale_ray_tune_") as scratch,
        LiveReport(ledger.folder, say=progress.say) as report,
    ):
        tune.Tuner(
            tune.with_resources(trainable, lambda config: share | ({"GPU": 1} if config["alone"] else {})),
            tune_config=tune.TuneConfig(
                search_alg=_Queue(ledger, progress, stopping, room=room),
                scheduler=_Early(ledger),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=_trial_id,
                trial_dirname_creator=_trial_id,
            ),
            run_config=tune.RunConfig(
                name=ledger.sweep.name,
                storage_path=scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=WORKER_LOSSES),
                callbacks=[_Watch(ledger, progress, stopping, metrics, report)],
                stop=_StopWhen(stopping),
            ),
        ).fit()


def _trial_id(trial: Any) -> str:
    return str(trial.config["trial"])


class _Unsaved:
    """What Tune would write into its own state, which is never read: the run folder is the state."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Queue(_Unsaved, Searcher):
    """Hands the ids of trials to Ray Tune, one when there is room for one; keeps no state of its own.

    room: how many may be at work. The ledger counts them: Tune's own limit forgets one that lost its worker.
    """

    def __init__(self, ledger: Ledger, progress: Progress, stopping: threading.Event, *, room: int) -> None:
        super().__init__()
        self._room = room
        self._ledger, self._progress, self._stopping = ledger, progress, stopping
        self._ids: Iterator[str | None] = ledger.trials()
        self._paused = False

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's config; None where one must wait, the word that there is none at the end."""
        if self._stopping.is_set():
            return str(Searcher.FINISHED)
        if self._ledger.at_work >= self._room or self._disk_is_full():
            return None
        following = next(self._ids, Searcher.FINISHED)
        if following is None or following == Searcher.FINISHED:
            return following
        return {"trial": following, "alone": (self._ledger.trial_folder(following) / ALONE).exists()}

    def _disk_is_full(self) -> bool:
        needed, free = self._ledger.sweep.fixed["resources.min_free_gb"], free_gigabytes(self._ledger.folder)
        paused = bool(free < needed)
        if paused != self._paused:
            self._paused = paused
            rule = f"the disk of {self._ledger.folder} has {free:.1f} GB left, of resources.min_free_gb {needed:g}"
            self._progress.say(f"{rule}: no trial starts until there is room" if paused else f"{rule}: going on")
        return paused

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Does nothing: the run folder says what became of a trial."""

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: the run folder is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing: the run folder is the state."""

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Accepts whatever Tune says: the space is ours."""
        return True


class _Early(_Unsaved, FIFOScheduler):
    """Stops a trial where the ledger says that it need not go on; else first come, first served."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether the trial goes on after an epoch."""
        if result.get("done") or self._ledger.goes_on(_trial_id(trial), result):
            return str(FIFOScheduler.CONTINUE)
        return str(FIFOScheduler.STOP)


class _Watch(_Unsaved, tune.Callback):
    """Passes on what Tune sees, to the person who watches and to the ledger; ends trials that have stalled."""

    def __init__(
        self, ledger: Ledger, progress: Progress, stopping: threading.Event, metrics: Metrics, report: LiveReport
    ) -> None:
        self._ledger, self._progress, self._stopping = ledger, progress, stopping
        self._metrics, self._report = metrics, report
        self._minutes = ledger.sweep.fixed["resources.stall_minutes"]
        self._stalls = Stalls(self._minutes)
        self._stalled: dict[str, int] = {}
        self._lost: set[str] = set()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial begins."""
        record = self._ledger.record(_trial_id(trial))
        said = label(record.point, kind=record.kind)
        self._progress.started(record.trial, said)
        self._metrics.started(record.trial, said, epochs=epochs_of(record.settings))

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """A trial reports an epoch, or its end."""
        if reason := result.get("no_room"):
            self._stopping.set()
            self._progress.say(f"trial {_trial_id(trial)} has nowhere to write to: {reason}")
        if note := result.get("note"):
            self._progress.say(f"trial {_trial_id(trial)}: {note.splitlines()[0]}")
        self._progress.epoch(_trial_id(trial), result)
        self._metrics.epoch(_trial_id(trial), result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has ended: by itself, or stopped by the scheduler or by a person."""
        record = self._ledger.record(_trial_id(trial))
        if self._ledger.postpone(record.trial):
            self._progress.say(f"trial {record.trial} did not fit beside others, and will run alone on a whole GPU")
        elif record.status != "running" or not self._stopping.is_set():
            self._settle(trial, status="pruned")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's worker was lost for good."""
        self._lost.add(trial.trial_id)
        folder = self._ledger.trial_folder(_trial_id(trial))
        write_atomically(folder / "traceback.txt", f"{trial.get_error()}\n")
        self._settle(trial, status="failed", error=f"its worker was lost {WORKER_LOSSES + 1} times")

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Time goes by: a trial without a sign of life is ended; Tune starts it again, from its last checkpoint."""
        self._ledger.tick()
        for trial in trials:
            if trial.status == "ERROR" and trial.trial_id not in self._lost:
                self._hand_out_again(trial)
        running = [_trial_id(trial) for trial in trials if trial.status == "RUNNING"]
        for trial in self._stalls.find({name: self._ledger.trial_folder(name) for name in running}):
            self._end(trial)

    def _hand_out_again(self, trial: Any) -> None:
        """A worker was to go on with this trial but did not let go of another in time; Tune tells no callback."""
        self._lost.add(trial.trial_id)
        if self._ledger.record(_trial_id(trial)).status == "running":
            self._ledger.hand_out_again(_trial_id(trial))
            self._progress.say(f"trial {_trial_id(trial)} lost its worker before it began, and will get another")

    def _end(self, trial: str) -> None:
        folder = self._ledger.trial_folder(trial)
        place = where_it_runs(folder)
        if place is None:
            return
        self._stalled[trial] = self._stalled.get(trial, 0) + 1
        silence = f"no sign of life for {self._minutes:g} minutes"
        self._progress.say(f"trial {trial} is ended: {silence}")
        if self._stalled[trial] == _STALLS:
            write_atomically(folder / "traceback.txt", f"{silence}, {_STALLS} times; process {place['pid']}\n")
            self._ledger.give_up(trial, f"{silence}, {_STALLS} times")
        end_worker(**place)

    def _settle(self, trial: Any, *, status: str, error: str = "") -> None:
        record = self._ledger.settle(_trial_id(trial), status=status, error=error)
        score, reason = record.result.get(self._ledger.objective), record.result.get("error", "")
        self._progress.ended(record.trial, status=record.status, score=score, error=reason)
        self._metrics.ended(record.trial, status=record.status, score=score)
        self._report.changed()


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
