"""Sweep driver: opens the run folder, checks the cluster's address, runs the sweep and returns its outcome.

Importing this module loads neither torch nor Ray, so that an address or a storage that cannot be used is known at once.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

from whale_ray.ray_address import check_driver_address
from whale_ray.sweep.config.sweep_spec import Sweep
from whale_ray.sweep.execution.console import Progress
from whale_ray.sweep.execution.runners.sweep_result import SweepResult
from whale_ray.sweep.run_store.driver_run_folder import opened_runs
from whale_ray.sweep.run_store.run_download import local_run

__all__ = ["SweepResult", "run_sweep"]


def run_sweep(
    sweep: Sweep,
    *,
    runs: Path | str = "runs",
    address: str | None = None,
    fresh: bool = False,
    retry_failed: bool = False,
    import_from: Path | str | None = None,
    progress: Progress | None = None,
    stopping: threading.Event | None = None,
    in_process: bool = False,
) -> SweepResult:
    """Run the trials that the run folder lacks, and write leaderboard, report and best bundle.

    Args:
        sweep: The sweep.
        runs: Folder or URI of run folders.
        address: A running Ray cluster; None starts one for the sweep.
        fresh: Move an existing run folder aside first.
        retry_failed: Run failed trials again.
        import_from: Another run folder or its URL; its finished trials are copied if they fit this sweep and its
            photographs.
        progress: Display of the sweep; None prints plain lines.
        stopping: When it is set, running trials end and keep their last checkpoint.
        in_process: Run the trials one after another in this process, without Ray, as a debugger needs it.

    Returns:
        The outcome; interrupted if `stopping` was set.

    Raises:
        InputError: If settings, data, encoders, resources or the cluster's address cannot work, before a trial starts.
    """
    progress = progress or Progress(sweep=sweep.name, objective=sweep.fixed["search.objective"])
    stopping = stopping or threading.Event()
    imported = None if import_from is None else local_run(import_from, say=progress.say)
    with opened_runs(runs, sweep.name, fresh=fresh, say=progress.say, stopping=stopping) as opened:
        is_begun = imported is not None or any((opened.folder / sweep.name).glob("trials/*/result.json"))
        left_out: dict[str, str] = {}
        if not in_process and (fresh or not is_begun):  # otherwise there may be nothing to train, without a cluster
            left_out = _check_cluster(sweep, address, progress)  # known now, and not when the photographs are decoded
        from whale_ray.sweep.execution.runners.sweep_session import run_session

        result = run_session(
            sweep,
            opened,
            progress,
            stopping,
            address=address,
            fresh=fresh,
            retry_failed=retry_failed,
            import_from=imported,
            in_process=in_process,
            left_out=left_out,
        )
    if opened.is_taken_over:  # the URL has the results of another driver
        return replace(result, interrupted=True)
    url = opened.remote.url if opened.remote else None
    return replace(result, url=url, unpublished=tuple(opened.unpublished))


def _check_cluster(sweep: Sweep, address: str | None, progress: Progress) -> dict[str, str]:
    """Return the faults of nodes of a running cluster that cannot run trials; {} for a Ray that the sweep will start.

    Raises:
        InputError: If no cluster answers, it has other versions, or none of its nodes can run trials.
    """
    target = check_driver_address(address)
    if target == "local":
        return {}
    from whale_ray.sweep.execution.cluster.node_admission import check_nodes

    return check_nodes(sweep, target, say=progress.say)
