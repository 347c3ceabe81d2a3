"""The command `whale-ray`: every road into the project, each a thin door to the room that does the work."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from whale_ray.errors import InputError, WhaleRayError
from whale_ray.sweep.command import EXAMPLES, sweep

application = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Finds the best way to recognise individual whales in your photographs, and puts it into service.",
)
application.command(epilog=EXAMPLES)(sweep)


def _refusing(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with what a person can mend said in one message and exit code 2."""

    @wraps(command)
    def guarded(*args: Any, **options: Any) -> None:
        try:
            command(*args, **options)
        except WhaleRayError as error:
            typer.echo(f"whale_ray: {error}", err=True)
            raise typer.Exit(2) from None

    return guarded


@application.command(epilog="Example: whale-ray synth synthetic --individuals 60 --images 700")
@_refusing
def synth(
    folder: Annotated[Path, typer.Argument(help="A folder that does not exist yet, or is empty.")],
    individuals: Annotated[int, typer.Option(help="How many named individuals.", min=2)] = 60,
    images: Annotated[int, typer.Option(help="How many training photographs.", min=4)] = 700,
    difficulty: Annotated[float, typer.Option(help="0 clear to 1 very hard.", min=0.0, max=1.0)] = 0.5,
    seed: Annotated[int, typer.Option(help="The same seed draws the same data set.")] = 0,
) -> None:
    """Draws a data set of humpback flukes in the Kaggle layout."""
    from whale_ray.data.synthetic.dataset import draw_dataset

    draw_dataset(folder, individuals=individuals, images=images, difficulty=difficulty, seed=seed, progress=True)
    tested = len(list((folder / "test").iterdir()))
    typer.echo(f"{images} photographs of {individuals} individuals in {folder}/train, {tested} more in {folder}/test")


_AUDIT_EXAMPLES = """
Examples:

  whale-ray audit data

  whale-ray audit data --set data.image_column=file --set data.group_column=encounter
"""


@application.command(epilog=_AUDIT_EXAMPLES)
@_refusing
def audit(
    folder: Annotated[Path, typer.Argument(help="The folder with train.csv and train/.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A `data` setting, as in a sweep file.")
    ] = None,
) -> None:
    """Says what is wrong with a folder of photographs; changes nothing."""
    from whale_ray.data.audit import audit_photographs
    from whale_ray.data.pixel_cache import Geometry, prepare_pixels
    from whale_ray.sweep.config.sweep_spec import data_settings
    from whale_ray.sweep.planning.dataset import catalog_of, pixel_cache

    catalog = catalog_of(data_settings(folder, set_ or []))
    pixels = prepare_pixels(catalog, Geometry(64, 64), cache=pixel_cache(), progress=True)
    for line in audit_photographs(catalog, pixels).lines(most=None):
        typer.echo(line)


_REVIEW_EXAMPLES = """
Examples:

  whale-ray apply-review runs/quickstart/review.csv

  whale-ray apply-review review.csv --data data --set data.image_column=file
"""


@application.command(epilog=_REVIEW_EXAMPLES)
@_refusing
def apply_review(
    review: Annotated[Path, typer.Argument(help="A review.csv, its column `confirm` filled in.")],
    data: Annotated[
        Path | None, typer.Option(help="The folder with train.csv and train/; left out: the sweep's beside REVIEW.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A `data` setting, as in a sweep file.")
    ] = None,
) -> None:
    """Writes a new table beside the old one, with what a person confirmed; changes nothing else."""
    from whale_ray.data.review import apply_review
    from whale_ray.sweep.report.label_review import reviewed_data

    settings, again = reviewed_data(review, data, set_ or [])
    reviewed = apply_review.apply_review(review, **settings)
    for line in reviewed.lines:
        typer.echo(line)
    typer.echo(f"{reviewed.path} is written. Sweep it with:\n{again} --set data.table={shlex.quote(reviewed.table)}")


@application.command()
def spec() -> None:
    """Prints the reference of the sweep file: every key, its type, default and meaning."""
    from whale_ray.sweep.config.sweep_spec import reference_text

    typer.echo(reference_text())


_REPORT_EXAMPLES = """
Examples:

  whale-ray report runs/quickstart

  whale-ray report runs/quickstart --retrieval 'vote=[nearest, softmax]' --retrieval 'neighbours=[1, 5, 20]'
"""


@application.command(epilog=_REPORT_EXAMPLES)
@_refusing
def report(
    run: Annotated[Path, typer.Argument(help="A run folder, as runs/quickstart.")],
    retrieval: Annotated[
        list[str] | None,
        typer.Option(metavar="AXIS=VALUES", help="Score every finished trial for other settings; nothing is trained."),
    ] = None,
) -> None:
    """Writes a run folder's report.html anew; with --retrieval, scores its finished trials for other settings."""
    from whale_ray.sweep.report.page import write_report

    if retrieval:
        _score_again(run, retrieval)
    typer.echo(write_report(run))


def _score_again(run: Path, retrieval: list[str]) -> None:
    from rich.console import Console

    from whale_ray.sweep.config.sweep_spec import load_sweep
    from whale_ray.sweep.execution.console import leaderboard_table
    from whale_ray.sweep.run_folder.records import sweep_file
    from whale_ray.sweep.trials.scoring import score_again

    board = score_again(run, retrieval)
    Console().print(leaderboard_table(board, axes=[axis.name for axis in load_sweep(sweep_file(run)).axes]))
    typer.echo(run / "rescored" / "leaderboard.csv")
    typer.echo(run / "rescored" / "retrieval.csv")


@application.command(epilog="Example: whale-ray submit runs/vit_proxy/best data/test submission.csv")
@_refusing
def submit(
    bundle: Annotated[Path, typer.Argument(help="A bundle, as runs/quickstart/best.")],
    images: Annotated[Path, typer.Argument(help="The folder of test photographs.")],
    out: Annotated[Path, typer.Argument(help="The CSV file to write.")],
) -> None:
    """Writes a Kaggle submission: five distinct labels for every test photograph."""
    from whale_ray.inference.kaggle_submission import kaggle_command, write_submission
    from whale_ray.inference.predictor import Bundle

    replaced = " again, over the older file" if out.exists() else ""
    recogniser = Bundle.load(bundle)
    unreadable = write_submission(recogniser, images, out, progress=True)
    first = [line.split(",")[1].split()[0] for line in out.read_text().splitlines()[1:]]
    for name, reason in unreadable.items():
        typer.echo(f"{name} cannot be decoded and gets the most frequent labels: {reason}", err=True)
    new = f"{first.count(recogniser.unknown_label)} of them first of all {recogniser.unknown_label}"
    typer.echo(f"{out} is written{replaced}: {len(first)} photographs, {new}. Send it with:\n{kaggle_command(out)}")


_IDENTIFY_EXAMPLES = """
Examples:

  whale-ray identify runs/quickstart/best fluke.jpg

  whale-ray identify http://127.0.0.1:8000 left.jpg right.jpg --encounter --csv
"""


@application.command(epilog=_IDENTIFY_EXAMPLES)
@_refusing
def identify(
    target: Annotated[str, typer.Argument(help="A bundle, or the URL of a service.")],
    images: Annotated[list[Path], typer.Argument(help="Photographs.")],
    top: Annotated[int, typer.Option(help="How many individuals.", min=1, max=50)] = 5,
    encounter: Annotated[
        bool, typer.Option("--encounter", help="The photographs are views of one animal; of a service alone.")
    ] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Rows for a spreadsheet in place of JSON lines.")] = False,
) -> None:
    """Prints the individuals that each photograph may show, as JSON lines or CSV."""
    answers = _answers(target, images, top, encounter=encounter)
    if csv:
        from whale_ray.serving.http.responses import results_csv

        typer.echo(results_csv(answers), nl=False)
        return
    for answer in answers:
        typer.echo(json.dumps(answer))


def _answers(target: str, images: list[Path], top: int, *, encounter: bool) -> list[dict[str, Any]]:
    if target.startswith(("http://", "https://")):
        from whale_ray.serving.client import ask_service

        return ask_service(target, images, top=top, encounter=encounter)
    if encounter:
        raise InputError("--encounter is for a service, but a bundle was named. Serve it, and name its URL")
    from whale_ray.inference.predictor import Bundle
    from whale_ray.serving.http.responses import answers_of

    return answers_of(Bundle.load(target), images, top=top)


_SERVE_EXAMPLES = """
Examples:

  whale-ray serve runs/quickstart/best --set replicas=2

  whale-ray serve small=runs/small/best large=runs/large/best --set shape=split
"""


@application.command(epilog=_SERVE_EXAMPLES)
@_refusing
def serve(
    bundles: Annotated[list[str], typer.Argument(help="A bundle; several as NAME=BUNDLE, the default first.")],
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on.")] = 8000,
    insecure: Annotated[bool, typer.Option("--insecure", help="Serve other hosts without a key.")] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting, as in deploy/serve.yaml.")
    ] = None,
) -> None:
    """Serves bundles over HTTP until Ctrl-C."""
    from whale_ray.serving.deployment.launcher import serve_models
    from whale_ray.serving.deployment.settings import read_settings

    serve_models(read_settings(bundles, set_ or []), host=host, port=port, insecure=insecure)


@application.command(epilog="Example: whale-ray deploy runs/quickstart/best --set replicas=2")
@_refusing
def deploy(
    bundle: Annotated[Path, typer.Argument(help="A bundle, as runs/quickstart/best.")],
    address: Annotated[str | None, typer.Option(help="The Ray on which the service runs.")] = None,
    model: Annotated[str | None, typer.Option(help="Which of several models; the default one.")] = None,
    shadow: Annotated[bool, typer.Option("--shadow", help="Let it answer silently beside the live one.")] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting, as replicas=2.")
    ] = None,
) -> None:
    """Exchanges the bundle of a service that runs, without a request that fails."""
    from whale_ray.serving.deployment import rollout

    rollout.deploy(bundle, address=address, model=model, shadow=shadow, options=set_ or [], say=typer.echo)


_EXPORT_EXAMPLE = """
Example:

  whale-ray export-enrolled sqlite:///enrolled.db data/train review.csv

  whale-ray apply-review review.csv then adds them to a new train.csv.
"""


@application.command(epilog=_EXPORT_EXAMPLE)
@_refusing
def export_enrolled(
    store: Annotated[str, typer.Argument(help="The URL of a service's database of enrolments.")],
    folder: Annotated[Path, typer.Argument(help="The folder of training photographs.")],
    review: Annotated[Path, typer.Argument(help="The CSV file to write.")],
) -> None:
    """Writes what people enrolled in a service as photographs and as rows of a review, for the next training."""
    from whale_ray.serving.gallery.export import export_enrolled
    from whale_ray.serving.gallery.store import EnrolmentStore

    opened = EnrolmentStore(store)
    count = export_enrolled(opened, folder, review)
    opened.close()
    typer.echo(f"{count} enrolled photographs are in {folder}, and a row for each in {review}")


def main() -> None:
    """The entry of `whale-ray`."""
    application()
