"""Session of a sweep in its run folder: prepares the data, runs the missing trials, makes bundle and report."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from whale_ray.file_errors import real_path
from whale_ray.retrieval.recent_whitenings import RECENT_WHITENINGS
from whale_ray.sweep.config.sweep_spec import Sweep
from whale_ray.sweep.execution.console import Progress
from whale_ray.sweep.execution.export_bundle import make_best_bundle
from whale_ray.sweep.execution.gather_local_evidence import gather_local_evidence
from whale_ray.sweep.execution.import_run import import_run
from whale_ray.sweep.execution.preparation import (
    check_inputs,
    prepare_dataset,
    refresh_traits,
    tracking_of,
    write_inputs,
)
from whale_ray.sweep.execution.runners.in_process_runner import run_trials_in_process
from whale_ray.sweep.execution.runners.sweep_result import SweepResult
from whale_ray.sweep.execution.trial_store import TrialStore, open_trial_store
from whale_ray.sweep.planning.dataset import Dataset
from whale_ray.sweep.planning.dry_run import planned_runs
from whale_ray.sweep.planning.resume import keep_earlier_grouping, notes_on_grouping
from whale_ray.sweep.planning.trial_points import frozen_poolings
from whale_ray.sweep.report.page import write_report
from whale_ray.sweep.run_folder.leaderboard import finished_trials, write_leaderboard
from whale_ray.sweep.run_folder.lock import claimed
from whale_ray.sweep.run_folder.records import forget_failed
from whale_ray.sweep.run_folder.sweep_identity import SweepIdentity, sweep_identity
from whale_ray.sweep.run_store.driver_run_folder import OpenedRuns
from whale_ray.sweep.trials.scoring import scoring_of
from whale_ray.sweep.trials.trackers.registry import begin_trackers, end_trackers
from whale_ray.sweep.trials.trackers.tracker import SweepOutcome
from whale_ray.sweep.trials.trial_run import SweepContext
from whale_ray.sweep.trials.worker import retrain_on_all
from whale_ray.verbosity import is_quiet


def run_session(
    sweep: Sweep,
    opened: OpenedRuns,
    progress: Progress,
    stopping: threading.Event,
    *,
    address: str | None,
    fresh: bool,
    retry_failed: bool,
    import_from: Path | None,
    in_process: bool,
    left_out: Mapping[str, str],
) -> SweepResult:
    """Run the trials that an opened run folder lacks, and write leaderboard, report and best bundle.

    Args:
        sweep: The sweep.
        opened: The folder of its run folder on this machine.
        progress: Display of the sweep.
        stopping: When it is set, running trials end and keep their last checkpoint.
        address: A running Ray cluster; None starts one for the sweep.
        fresh: Move an existing run folder aside first.
        retry_failed: Run failed trials again.
        import_from: Another run folder; its finished trials are copied.
        in_process: Run the trials one after another in this process, without Ray.
        left_out: Faults of nodes that get no trial, by their ID.

    Raises:
        InputError: If settings, data, encoders, resources or the cluster cannot work, before a trial starts.
    """
    if not fresh:
        wanted, sweep = sweep, keep_earlier_grouping(sweep, opened.folder / sweep.name)
        for note in notes_on_grouping(wanted, sweep):
            progress.say(note)
    progress.expect(planned_runs(sweep))
    dataset = prepare_dataset(sweep, check_inputs(sweep), progress)
    with claimed(opened.folder / sweep.name, fresh=fresh and opened.remote is None) as folder:
        identity = sweep_identity(folder, sweep.name)
        if retry_failed:
            forget_failed(folder)
            opened.publish()  # lest another node downloads the results that are gone
        gather_local_evidence(sweep, dataset, folder, say=progress.say, progress=progress.console.is_terminal)
        if import_from is not None:
            for line in import_run(import_from, folder, sweep, dataset).lines(import_from):
                progress.say(line)
        refresh_traits(dataset, folder)
        store = _open_store(sweep, dataset, folder, progress)
        store = replace(store, fetch=opened.fetch_trial, fetch_weights=opened.fetch_weights)
        write_inputs(sweep, dataset, folder)
        stall_minutes = sweep.fixed["resources.stall_minutes"]
        job = replace(_job(sweep, dataset, folder, identity), remote=opened.watched(stall_minutes=stall_minutes))
        no_node = ""
        if worked := store.queue.has_work():
            job = replace(job, tracking=begin_trackers(job.tracking, folder, say=progress.say))
            with progress.trials():
                if in_process:
                    with progress:
                        run_trials_in_process(store, job, progress, stopping)
                else:
                    no_node = _run_on_ray(store, job, progress, stopping, address=address, left_out=left_out)
        else:
            progress.say("nothing is left to train: every trial that this sweep asks for has ended")
        with RECENT_WHITENINGS.keeping():
            result = _conclude(job, store, interrupted=stopping.is_set(), say=progress.say)
        if worked:
            outcome = SweepOutcome(
                folder=result.folder, report=result.report, bundle=result.bundle, interrupted=result.interrupted
            )
            end_trackers(job.tracking, outcome, say=progress.say)
        return replace(result, no_node=no_node)


def _open_store(sweep: Sweep, dataset: Dataset, folder: Path, progress: Progress) -> TrialStore:
    """Return the trials of the run folder, and print what was done with those of earlier sessions."""
    store = open_trial_store(sweep, folder, data_fingerprint=dataset.fingerprint)
    progress.earlier(sum(record.status != "running" for record in store.index.records()))
    if store.rescored:
        reason = "the sweep has other settings, or this version has other scores"
        progress.say(f"trials scored again from their embeddings: {store.rescored} ({reason})")
    for note in store.notes:
        progress.say(note)
    return store


def _run_on_ray(
    store: TrialStore,
    job: SweepContext,
    progress: Progress,
    stopping: threading.Event,
    *,
    address: str | None,
    left_out: Mapping[str, str],
) -> str:
    from whale_ray.sweep.execution.cluster.ray_cluster import connected
    from whale_ray.sweep.execution.runners.tune_runner import run_trials

    with connected(address, say=progress.say) as can_grow, progress:
        return run_trials(store, job, progress, stopping, left_out=left_out, can_grow=can_grow)


def _job(sweep: Sweep, dataset: Dataset, folder: Path, identity: SweepIdentity) -> SweepContext:
    fixed = sweep.fixed
    return SweepContext(
        folder=real_path(folder),
        working_folder=Path.cwd(),
        dataset=dataset,
        scoring=scoring_of(sweep),
        threads=max(1, int(fixed["resources.cpus"])),
        gpus=fixed["resources.gpus"],
        workers=fixed["resources.workers"],
        cpus=fixed["resources.cpus"],
        tracking=tracking_of(sweep, prefix=identity.wandb_prefix),
        poolings=frozen_poolings(sweep),
        data_root=fixed["data.root"],
    )


def _conclude(job: SweepContext, store: TrialStore, *, interrupted: bool, say: Callable[[str], None]) -> SweepResult:
    """Write the leaderboard, the best bundle and the report."""
    fixed = store.sweep.fixed
    store.outcomes.catch_up()
    if not interrupted:
        store.outcomes.make_ensemble(say, fetch_weights=store.fetch_weights)
    store.index.reload_all()  # interrupted trials: their last epoch
    table = store.outcomes.leaderboard()
    write_leaderboard(table, store.folder / "leaderboard.csv")
    in_folds = job.dataset.folds > 1
    if in_folds and interrupted:
        say("no bundle yet: that of a sweep in k folds is trained on all photographs when the sweep has ended")
    retrain = (in_folds or fixed["bundle.retrain_on_all"]) and not interrupted
    made = make_best_bundle(
        () if in_folds and interrupted else map(store.with_weights, finished_trials(table)),
        job.dataset,
        run=store.folder,
        say=say,
        retrain=(lambda trial: retrain_on_all(trial, job, say)) if retrain else None,
        examples=fixed["bundle.examples"],
        thumbnails=fixed["bundle.thumbnails"],
        license_id=fixed["bundle.license"],
        runtime=fixed["bundle.runtime"],
    )
    report = write_report(store.folder, progress=not is_quiet(), say=say, bundle=made and made.bundle)
    return SweepResult(store.folder, table, made and made.folder, report, interrupted)
