"""Command `discover`: individuals in photographs without names."""

from __future__ import annotations

import getpass
import os
import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whale_ray.commands.options import DataSettings, exits_with_message
from whale_ray.errors import InputError
from whale_ray.file_errors import real_path
from whale_ray.sweep.config.value_kinds import KEYPOINT_WORDS

if TYPE_CHECKING:
    from whale_ray.data.catalog import Catalog
    from whale_ray.discovery.records.discovery_folder import DiscoveryFolder
    from whale_ray.discovery.session import DiscoverySession

DISCOVER_EXAMPLES = """
Examples:

  whale-ray discover photographs/ --bundle runs/quickstart/best

  whale-ray discover photographs/ --bundle runs/quickstart/best --labels named.csv --out monterey

  whale-ray discover photographs/ --no-page

  whale-ray discover photographs/ --answers discover/questions.csv --no-page
"""


@exits_with_message
def discover(
    photographs: Annotated[Path, typer.Argument(help="A folder of photographs, or of a data set.")],
    bundle: Annotated[
        str | None, typer.Option(help="A bundle that embeds them: a folder, hf://… or s3://…. Default: --encoder.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="A table Image,Id of photographs with a name.")] = None,
    out: Annotated[Path, typer.Option(help="The folder of the discovery. The same folder continues it.")] = Path(
        "discover"
    ),
    answers: Annotated[
        Path | None, typer.Option(help="Take answers from a filled questions.csv, or from another answers.jsonl.")
    ] = None,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Open a web page on which to compare pairs.")] = True,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on; 0 takes a free one.", min=0, max=65535)] = 8100,
    person: Annotated[str | None, typer.Option(help="Name saved with answers. Default: the login name.")] = None,
    singles: Annotated[
        str, typer.Option(help="Photographs alone in a cluster, in table.csv: unknown, named or omitted.")
    ] = "unknown",
    encoder: Annotated[
        str, typer.Option(help="Frozen encoder without --bundle, as model.encoder.")
    ] = "torchvision:mobilenet_v2",
    weights: Annotated[str, typer.Option(help="Its weights: pretrained or a file.")] = "pretrained",
    local: Annotated[
        str, typer.Option(help="Keypoints that are compared beside the embeddings: sift, orb or none.")
    ] = "sift",
    set_: DataSettings = None,
) -> None:
    """Find the individuals in photographs without names: clusters, questions for a person, a training table."""
    from whale_ray.discovery.records.result_tables import SINGLES

    for option, value, known in (("--singles", singles, SINGLES), ("--local", local, KEYPOINT_WORDS)):
        if value not in known:
            raise InputError(f"{option} is one of {', '.join(known)}, but got {value!r}. Choose one of these")
    from whale_ray.commands.open_discovery import open_encoder, open_session
    from whale_ray.discovery.records.discovery_folder import DiscoveryFolder
    from whale_ray.discovery.review_server.server import serve_review_page

    catalog = _read_photographs(photographs, labels, set_ or [])
    folder, name = DiscoveryFolder(out), _name_of(person)
    opened = open_encoder(bundle, encoder, weights)
    with folder.opened(catalog.folder):
        session = open_session(folder, catalog, opened, local=local, singles=singles)
        if answers is not None:
            _take_answers(session, answers, name)
        _print_summary(session)
        if page:
            serve_review_page(session, host=host, port=port, person=name, say=typer.echo)
            _print_summary(session)
        _print_next_steps(session, photographs)


def _name_of(person: str | None) -> str:
    try:
        return getpass.getuser() if person is None else person
    except (OSError, KeyError):  # a container's user without an entry
        return ""


def _read_photographs(folder: Path, labels: Path | None, overrides: list[str]) -> Catalog:
    """Return the photographs of a data set or of a plain folder; a folder per individual has to be chosen."""
    from whale_ray.data.formats.data_layout import DataLayout
    from whale_ray.data.formats.registry import FORMATS
    from whale_ray.discovery.photographs.named_photographs import photographs_in_folder, with_labels
    from whale_ray.sweep.config.sweep_spec import data_settings
    from whale_ray.sweep.planning.dataset import TABLE_SETTINGS, catalog_of

    settings = data_settings(folder, overrides)
    layout = DataLayout(folder, **{name: settings[name] for name in TABLE_SETTINGS if name in settings})
    others: dict[str, str] = {}
    chosen = settings["format"] != "auto" or any(option.startswith("data.table=") for option in overrides)
    formats = [FORMATS[name] for name in ("kaggle", "wildlife", "coco")]
    if chosen or (folder.is_dir() and any(one.recognize(layout) for one in formats)):
        catalog = catalog_of(settings)
    else:
        boxes = settings["boxes"]
        catalog, others = photographs_in_folder(
            folder, boxes=None if boxes is None else Path(boxes), unknown_label=settings["unknown_label"]
        )
    if labels is not None:
        columns = {name: settings[name] for name in ("image_column", "label_column")}
        catalog = with_labels(catalog, labels, **columns)
    for name, reason in list(others.items())[:5]:
        typer.echo(f"{name} is left out: {reason}", err=True)
    if len(others) > 5:
        typer.echo(f"{len(others) - 5} more files are left out", err=True)
    named = catalog.table["individual"] != catalog.unknown_label
    individuals = catalog.table.loc[named, "individual"].nunique()
    typer.echo(f"{len(catalog.table)} photographs, {int(named.sum())} of them named ({individuals} individuals)")
    return catalog


def _take_answers(session: DiscoverySession, path: Path, person: str) -> None:
    from whale_ray.discovery.records.answer_tables import read_answers

    read = read_answers(path, session.images, person=person)
    new = session.add_answers(read)
    typer.echo(f"{new} new answers of {path} are saved, {len(read) - new} were there before")


def _print_summary(session: DiscoverySession) -> None:
    from whale_ray.data.hints.audit_lines import count_of

    grouping = session.state.grouping
    photographs = count_of(len(session.images), "photograph is", "photographs are")
    typer.echo(
        f"{photographs} in {count_of(grouping.clusters, 'cluster')}, {grouping.singletons} of them with one "
        f"photograph; {count_of(len(session.log.valid), 'answer')}"
    )
    if found := len(grouping.contradictions):
        typer.echo(f"{count_of(found, 'contradiction')} between answers: see {session.folder.contradictions}")
    if animals := grouping.animals:
        typer.echo(
            f"about {count_of(round(animals.count), 'animal')}, {animals.low:.0f} to {animals.high:.0f} with 95 % "
            f"confidence ({count_of(animals.pairs, 'pair')})"
        )
    else:
        typer.echo("number of animals: more answers are needed for an estimate")


def _print_next_steps(session: DiscoverySession, photographs: Path) -> None:
    folder, catalog = session.folder, session.catalog
    sizes = Counter(session.training_table()["Id"])
    sizes.pop(catalog.unknown_label, None)
    if max(sizes.values(), default=0) > 1:
        command = _sweep_command(folder, catalog, photographs)
        typer.echo(f"{folder.table} is the training table. Try it with:\n{command}")
    else:
        typer.echo(f"{folder.table} has no individual with two photographs yet: a sweep needs answers first")
    if not session.state.grouping.questions:
        return
    typer.echo(
        f"Offline review: fill the column answer of {folder.questions} (same, different, cannot tell), then repeat the "
        f"command with --answers {shlex.quote(str(folder.questions))}"
    )


def _sweep_command(folder: DiscoveryFolder, catalog: Catalog, photographs: Path) -> str:
    """Return the command that tries the training table: the table by its full path, the images where they lie."""
    images = os.path.relpath(catalog.folder, photographs)
    settings: Mapping[str, Any] = {"table": real_path(folder.table), "image_folder": images, "format": "kaggle"}
    options = " ".join(f"--set {shlex.quote(f'data.{name}={value}')}" for name, value in settings.items())
    data = shlex.quote(str(photographs))
    return f"python -m whale_ray.sweep sweeps/photos.yaml --data {data} {options} --dry-run"
