"""Command line of a sweep, for `python -m whale_ray.sweep` and `whale-ray sweep`."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from whale_ray.device import limit_default_threads
from whale_ray.errors import InputError
from whale_ray.file_errors import explain_file_error, is_disk_full
from whale_ray.sweep.config.sweep_spec import Sweep, load_sweep
from whale_ray.verbosity import set_verbosity

EXAMPLES = """
Examples:

  python -m whale_ray.sweep sweeps/quickstart.yaml

  python -m whale_ray.sweep sweeps/vit_proxy.yaml --data /photos/humpbacks --set train.epochs=20

  python -m whale_ray.sweep sweeps/vit_proxy.yaml --dry-run --estimate

The same command again resumes the sweep.
"""
_NO_NODE = "finished trials are kept. When a node can run the trials, run the same command again to resume"
_INTERRUPTED = "interrupted: finished trials are kept. Run the same command again to resume"


def sweep(
    file: Annotated[Path, typer.Argument(help="Sweep file (YAML); examples are in sweeps/.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting of the file.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Folder or URL (s3://…, gs://…) of the data set; overrides data.root.")
    ] = None,
    runs: Annotated[str, typer.Option(help="Folder or URL (s3://…, gs://…) of run folders.")] = "runs",
    address: Annotated[str | None, typer.Option(help="Address of a running Ray cluster: HOST:6379 or auto.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would run and start nothing.")] = False,
    estimate: Annotated[
        bool,
        typer.Option("--estimate", help="With --dry-run: also estimate the time from a short step of each encoder."),
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed trials again.")] = False,
    import_: Annotated[
        str | None, typer.Option("--import", metavar="RUN", help="Copy the finished trials of another run folder.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Move the old run folder aside and start again.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: print JSON instead of text.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also print log records.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only, no progress.")] = False,
) -> None:
    """Find the best way to recognise the individuals in your photographs."""
    if verbose or quiet:
        set_verbosity(verbose=verbose, quiet=quiet)
    try:
        plan = load_sweep(file, set_ or [], data=data)
        if as_json and not (dry_run or estimate):
            raise InputError("--json needs --dry-run, but it was given without it. Add --dry-run, or remove --json")
        if dry_run or estimate:
            _print_forecast(plan, _known_run(runs, plan.name), measure=estimate, as_json=as_json)
            return
        options = {"address": address, "fresh": fresh, "retry_failed": retry_failed, "import_from": import_}
        code = run_and_show(plan, runs=runs, **options)
    except InputError as error:
        typer.echo(f"whale_ray: {error}", err=True)
        raise typer.Exit(2) from None
    except OSError as error:
        if not is_disk_full(error):
            if (message := explain_file_error(error)) is None:
                raise
            typer.echo(f"whale_ray: {message}", err=True)
            raise typer.Exit(2) from None
        rule = f"a sweep needs a writable disk with free space, but: {error}"
        typer.echo(
            f"whale_ray: {rule}. Finished trials are kept: free some space and run the same command again", err=True
        )
        raise typer.Exit(1) from None
    raise typer.Exit(code)


def run_and_show(plan: Sweep, **options: Any) -> int:
    """Run a sweep with a display on the terminal and return the exit code.

    Args:
        plan: The sweep.
        **options: Options of `run_sweep`.
    """
    from whale_ray.sweep.execution.console import Progress, leaderboard_table
    from whale_ray.sweep.execution.driver import run_sweep

    progress = Progress(sweep=plan.name, objective=plan.fixed["search.objective"])
    with _stop_on_signals(progress) as stopping:
        try:
            result = run_sweep(plan, progress=progress, stopping=stopping, **options)
        except KeyboardInterrupt:
            progress.result(_INTERRUPTED)
            return 130
    if not result.no_node or (result.table["status"] != "running").any():
        axes = [axis.name for axis in plan.axes]
        progress.console.print(leaderboard_table(result.table, axes=axes, objective=plan.ranked_by))
    for row in result.table[result.table["status"] == "failed"].itertuples():
        progress.result(f"failed: trial {row.trial}: {row.error} ({result.folder}/trials/{row.trial}/traceback.txt)")
    progress.result(f"report       {result.report}")
    if result.url is not None:
        progress.result(f"run folder   {result.url}")
    if result.bundle is not None:
        if result.table["kind"][0] == "baseline":
            progress.result("the best trial is a baseline, the frozen encoder: no trained trial has a higher score")
        so_far = " (so far)" if result.interrupted else ""
        progress.result(f"best bundle  {result.folder / 'best'} -> {result.bundle}{so_far}")
        best = f"{result.url}/best" if result.url and not result.unpublished else str(result.folder / "best")
        progress.result(f"serve it     whale-ray serve {shlex.quote(best)}")
    if result.no_node:
        typer.echo(f"whale_ray: {result.no_node}\n{_NO_NODE}", err=True)
    elif result.interrupted:
        progress.result(_INTERRUPTED)
    return result.exit_code


@contextlib.contextmanager
def _stop_on_signals(progress: Any) -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C or SIGTERM sets while trials run.

    The second signal raises KeyboardInterrupt, and so does the first one before and after the trials, when no epoch
    runs. The earlier handlers return when the block ends.
    """
    stopping = threading.Event()

    def stop(number: int, frame: Any) -> None:
        if stopping.is_set() or not progress.trials_run:
            raise KeyboardInterrupt
        stopping.set()
        progress.say("stopping: trials keep their last checkpoint. A second Ctrl-C stops at once")

    earlier = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopping
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _known_run(runs: str, name: str) -> Path:
    """Return the local folder of a run, which need not exist; a run in a run store is downloaded."""
    from whale_ray.sweep.run_store.run_download import known_run

    return known_run(runs, name, say=lambda line: typer.echo(line, err=True))


def _print_forecast(plan: Sweep, run: Path, *, measure: bool, as_json: bool) -> None:
    """Print what the sweep would run and, with `measure`, how long that takes."""
    from whale_ray.sweep.planning.dry_run import forecast, planned_runs, trials_at_once, trials_left
    from whale_ray.sweep.planning.resume import keep_earlier_grouping
    from whale_ray.sweep.run_folder.records import read_records

    if any(local.endswith(".onnx") for local in plan.retrieval["local"]):
        from whale_ray.sweep.execution.gather_local_evidence import check_keypoints

        check_keypoints(plan)
    plan = keep_earlier_grouping(plan, run)
    lines, records = list(forecast(plan, run)), read_records(run)
    left = trials_left(plan, records) + sum(one.status == "running" and one.kind == "trial" for one in records)
    if measure:
        from whale_ray.sweep.planning.time_estimate import estimate

        lines += estimate(plan, trials=left, at_once=trials_at_once(plan))
    if as_json:
        counts = {"trials": planned_runs(plan), "trials_left": left, "at_once": trials_at_once(plan)}
        axes = {axis.name: axis.written() for axis in plan.axes}
        typer.echo(json.dumps({"name": plan.name, "run": str(run), **counts, "axes": axes, "notes": lines}, indent=1))
        return
    for line in lines:
        typer.echo(line)


def main() -> None:
    """Run the command `python -m whale_ray.sweep`."""
    limit_default_threads()
    application = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    application.command(epilog=EXAMPLES)(sweep)
    run_and_exit(application)


def run_and_exit(application: Callable[[], None]) -> NoReturn:
    """Run a command line and end the process with its exit code.

    Threads are waited for and exit functions run as at the end of every Python process, but its memory is left to the
    system: freeing the objects of a sweep takes seconds.

    Args:
        application: A typer application.
    """
    code: object = 0
    try:
        application()
    except SystemExit as error:
        code = error.code
    if not (code is None or isinstance(code, int)):
        print(code, file=sys.stderr)
        code = 1
    if storage := sys.modules.get("pyarrow.fs"):
        # It frees the clients of S3, and waits for a call that the storage does not answer.
        atexit.unregister(getattr(storage, "ensure_s3_finalized", print))
    threading._shutdown()  # type: ignore[attr-defined]  # the interpreter's own function
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code or 0)
