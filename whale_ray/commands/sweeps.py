"""Commands on sweep files and run folders: `init`, `spec`, `report`."""

from __future__ import annotations

import functools
import json
import shlex
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated

import typer

from whale_ray.commands.options import AsJson, exits_with_message
from whale_ray.errors import InputError
from whale_ray.file_errors import real_path
from whale_ray.verbosity import is_quiet

INIT_EXAMPLES = """
Examples:

  whale-ray init

  whale-ray init vit_proxy

  whale-ray init quickstart --to my_sweep.yaml
"""
REPORT_EXAMPLES = """
Examples:

  whale-ray report runs/quickstart

  whale-ray report runs/quickstart --json

  whale-ray report s3://BUCKET/runs/quickstart

  whale-ray report runs/quickstart --retrieval 'vote=[nearest, softmax]' --retrieval 'neighbours=[1, 5, 20]'
"""
SPEC_EXAMPLE = "Example: whale-ray spec --json-schema > sweep.schema.json"


def _shipped() -> dict[str, Traversable]:
    """Return the sweep files that the package ships, by name."""
    found = (entry for entry in (files("whale_ray") / "sweeps").iterdir() if entry.name.endswith(".yaml"))
    return {entry.name.removesuffix(".yaml"): entry for entry in sorted(found, key=lambda entry: entry.name)}


@exits_with_message
def init(
    name: Annotated[str | None, typer.Argument(help="The sweep file to copy. Without it: a list of all.")] = None,
    to: Annotated[Path | None, typer.Option(help="The file to write. Default: sweeps/NAME.yaml.")] = None,
) -> None:
    """Copy a shipped sweep file into this folder and print how to run it."""
    shipped = _shipped()
    if name is None:
        for key, entry in shipped.items():
            typer.echo(f"{key:24} {entry.read_text().splitlines()[1].removeprefix('# ')}")
        typer.echo("Copy one with: whale-ray init NAME")
        return
    if name not in shipped:
        raise InputError(f"NAME must be one of {', '.join(shipped)}, but got {name!r}")
    path = to or Path("sweeps") / f"{name}.yaml"
    if path.exists():
        raise InputError(f"{path} exists already and is not overwritten. Name another file with --to")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(shipped[name].read_text())
    typer.echo(f"{path} is written. Run it with:\npython -m whale_ray.sweep {shlex.quote(str(path))}")


def spec(
    json_schema: Annotated[
        bool, typer.Option("--json-schema", help="Print a JSON Schema of the sweep file, for editors.")
    ] = False,
) -> None:
    """Print the reference of the sweep file: every key with its type, default and meaning."""
    if json_schema:
        from whale_ray.sweep.config.json_schema import sweep_schema

        typer.echo(json.dumps(sweep_schema(), indent=1))
        return
    from whale_ray.commands.settings_reference import reference_text

    typer.echo(reference_text())


@exits_with_message
def report(
    run: Annotated[str, typer.Argument(help="A run folder, e.g. runs/quickstart or s3://BUCKET/runs/quickstart.")],
    retrieval: Annotated[
        list[str] | None,
        typer.Option(metavar="AXIS=VALUES", help="Score every finished trial with these settings. Trains nothing."),
    ] = None,
    thorough: Annotated[
        bool,
        typer.Option(
            "--thorough", help="Shortcut audit of every photograph; keypoints vote on the labels; all maps. Slow."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write report.html of a run folder again, or score its trials with other retrieval settings."""
    from whale_ray.sweep.report.page import write_report
    from whale_ray.sweep.run_store.run_download import local_run, upload_file

    shows_progress = not (is_quiet() or as_json)
    say = functools.partial(typer.echo, err=True) if shows_progress else lambda text: None
    folder = local_run(run, say=say, weights=False)
    if retrieval:
        _score_again(folder, retrieval, as_json=as_json)
    path = write_report(folder, progress=shows_progress, thorough=thorough, say=say)
    upload_file(run, path, say=say)
    typer.echo(json.dumps(_as_json(folder, path), indent=1) if as_json else path)


def _as_json(run: Path, report_path: Path) -> dict[str, object]:
    """Return the leaderboard, best first, and where the report and the best bundle are."""
    from whale_ray.sweep.run_folder.leaderboard import read_leaderboard

    best = run / "best"
    return {
        "run": str(run),
        "report": str(report_path),
        "best_bundle": str(real_path(best)) if best.exists() else None,
        "trials": read_leaderboard(run),
    }


def _score_again(run: Path, retrieval: list[str], *, as_json: bool) -> None:
    from rich.console import Console

    from whale_ray.sweep.analysis.rescoring import score_again
    from whale_ray.sweep.config.sweep_spec import load_sweep
    from whale_ray.sweep.execution.console import leaderboard_table
    from whale_ray.sweep.run_folder.records import sweep_file

    board = score_again(run, retrieval)
    if as_json:
        return
    sweep = load_sweep(sweep_file(run), is_recorded=True)
    axes = [axis.name for axis in sweep.axes]
    Console().print(leaderboard_table(board, axes=axes, objective=sweep.ranked_by))
    typer.echo(run / "rescored" / "leaderboard.csv")
    typer.echo(run / "rescored" / "retrieval.csv")
