"""The sweep command: options in, exit code out. `python -m whale_ray.sweep` and `whale-ray sweep` are both this."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from whale_ray.errors import InputError
from whale_ray.sweep.guards import is_no_room
from whale_ray.sweep.spec import Sweep, load_sweep

EXAMPLES = """
Examples:

  python -m whale_ray.sweep sweeps/quickstart.yaml

  python -m whale_ray.sweep sweeps/vit_proxy.yaml --data /photos/humpbacks --set train.epochs=20

  python -m whale_ray.sweep sweeps/vit_proxy.yaml --dry-run

The same command again goes on where the last one stopped.
"""


def sweep(
    file: Annotated[Path, typer.Argument(help="The sweep file (YAML); sweeps/ has some to start from.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Lay a setting over the file's.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="The folder with train.csv and train/, instead of data.root.")
    ] = None,
    runs: Annotated[str, typer.Option(help="The folder of run folders.")] = "runs",
    address: Annotated[str | None, typer.Option(help="A running Ray cluster, as HOST:6379 or auto.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run; start nothing.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed trials again.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Move the old run folder aside and begin anew.")] = False,
) -> None:
    """Finds the best way to recognise the individuals in your photographs."""
    try:
        plan = load_sweep(file, set_ or [], data=data)
        if dry_run:
            print_plan(plan, Path(runs))
            return
        code = run_and_show(plan, runs=Path(runs), address=address, fresh=fresh, retry_failed=retry_failed)
    except InputError as error:
        typer.echo(f"whale_ray: {error}", err=True)
        raise typer.Exit(2) from None
    except OSError as error:
        if not is_no_room(error):
            raise
        rule = f"a sweep needs a disk with room, that it may write to, but: {error}"
        typer.echo(f"whale_ray: {rule}. Nothing that had finished is lost: make room, and type it again", err=True)
        raise typer.Exit(1) from None
    raise typer.Exit(code)


def run_and_show(plan: Sweep, **options: Any) -> int:
    """Runs the sweep before the person's eyes; the exit code."""
    from whale_ray.sweep.progress import Progress, leaderboard_table
    from whale_ray.sweep.run import run_sweep

    progress = Progress(sweep=plan.name, objective=plan.fixed["search.objective"], total=_total(plan))
    stopping = _stop_on_signals(progress)
    result = run_sweep(plan, progress=progress, stopping=stopping, **options)
    progress.console.print(leaderboard_table(result.table, axes=[axis.name for axis in plan.axes]))
    for row in result.table[result.table["status"] == "failed"].itertuples():
        progress.say(f"failed: trial {row.trial}: {row.error} ({result.folder}/trials/{row.trial}/traceback.txt)")
    progress.say(f"report       {result.report}")
    if result.bundle is not None:
        so_far = " (so far)" if result.interrupted else ""
        progress.say(f"best bundle  {result.folder / 'best'} -> {result.bundle}{so_far}")
        progress.say(f"serve it     whale-ray serve {result.folder / 'best'}")
    if result.interrupted:
        progress.say("interrupted: nothing that had finished is lost. Type the same command again to go on")
    return result.exit_code


def _total(plan: Sweep) -> int:
    from whale_ray.sweep.plan import baselines

    grid = plan.fixed["search.strategy"] == "grid"
    return len(baselines(plan)) + (plan.grid_cells() if grid else plan.fixed["search.trials"])


def _stop_on_signals(progress: Any) -> threading.Event:
    """An event that Ctrl-C or SIGTERM sets; the second Ctrl-C ends the process at once."""
    stopping = threading.Event()

    def stop(number: int, frame: Any) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()
        progress.say("stopping: trials keep what they have checkpointed. Once more stops at once")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    return stopping


def print_plan(plan: Sweep, runs: Path) -> None:
    """Prints what the sweep would run: trials or space, what is done already, resources."""
    from whale_ray.sweep.leaderboard import read_records
    from whale_ray.sweep.plan import label

    grid = plan.fixed["search.strategy"] == "grid"
    trials = f"{plan.grid_cells()} trials" if grid else f"up to {plan.fixed['search.trials']} trials"
    typer.echo(
        f"{plan.name}: {plan.fixed['search.strategy']} search, {trials}, objective {plan.fixed['search.objective']}"
    )
    for axis in plan.axes:
        where = f"   (where {axis.when[0]} is {axis.when[1]})" if axis.when else ""
        typer.echo(f"  {axis.name}: {json.dumps(axis.written())}{where}")
    for name, values in plan.retrieval.items():
        typer.echo(f"  retrieval.{name}: {json.dumps(list(values))}   (never retrained)")
    typer.echo(f"a trial takes {plan.fixed['resources.cpus']:g} CPU and {plan.fixed['resources.gpus']:g} GPU")
    records = read_records(runs / plan.name)
    done = [record for record in records if record.status in ("finished", "pruned")]
    typer.echo(f"{len(done)} trials are done in {runs / plan.name}, {len(records) - len(done)} unfinished or failed")
    for record in done:
        typer.echo(f"  {record.trial} {record.status}: {label(record.point)}")


def main() -> None:
    """The entry of `python -m whale_ray.sweep`."""
    application = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    application.command(epilog=EXAMPLES)(sweep)
    application()
