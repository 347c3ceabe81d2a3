"""Commands on photographs and their labels: `synth`, `audit`, `apply-review`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from whale_ray.commands.options import AsJson, DataSettings, exits_with_message
from whale_ray.verbosity import is_quiet

AUDIT_EXAMPLES = """
Examples:

  whale-ray audit data

  whale-ray audit data --set data.image_column=file --set data.group_column=encounter

  whale-ray audit data --json > audit.json
"""
REVIEW_EXAMPLES = """
Examples:

  whale-ray apply-review runs/quickstart/review.csv

  whale-ray apply-review review.csv --data data --set data.image_column=file
"""
SYNTH_EXAMPLE = "Example: whale-ray synth synthetic --individuals 60 --images 700"


@exits_with_message
def synth(
    folder: Annotated[Path, typer.Argument(help="A folder that does not exist yet, or is empty.")],
    individuals: Annotated[int, typer.Option(help="Number of named individuals.", min=2)] = 60,
    images: Annotated[int, typer.Option(help="Number of training photographs.", min=4)] = 700,
    difficulty: Annotated[float, typer.Option(help="From 0 (clear) to 1 (very hard).", min=0.0, max=1.0)] = 0.5,
    seed: Annotated[int, typer.Option(help="The same seed draws the same data set.")] = 0,
) -> None:
    """Draw a data set of humpback flukes in the Kaggle layout."""
    from whale_ray.data.synthetic.dataset import draw_dataset

    draw_dataset(
        folder, individuals=individuals, images=images, difficulty=difficulty, seed=seed, progress=not is_quiet()
    )
    tested = len(list((folder / "test").iterdir()))
    typer.echo(f"{images} photographs of {individuals} individuals in {folder}/train, {tested} more in {folder}/test")


@exits_with_message
def audit(
    folder: Annotated[
        str, typer.Argument(help="Folder or URL (s3://…, gs://…) of the data set, or the table or JSON file in it.")
    ],
    set_: DataSettings = None,
    as_json: AsJson = False,
    pictures: Annotated[
        Path | None, typer.Option(help="Write a contact sheet of the encounters found, as FILE.jpg.")
    ] = None,
) -> None:
    """Report how a data set is understood and what is wrong with it. Changes nothing."""
    from whale_ray.data.audit import audit_photographs
    from whale_ray.data.caches.cache_folder import pixel_cache
    from whale_ray.data.encounters.contact_sheet import write_contact_sheet
    from whale_ray.data.formats.understanding import understanding_lines, understood
    from whale_ray.data.image_io import Geometry
    from whale_ray.data.pixel_cache import decode_images
    from whale_ray.sweep.config.sweep_spec import data_settings
    from whale_ray.sweep.planning.dataset import catalog_of

    chosen = set_ or []
    if (file := Path(folder)).is_file():
        folder, chosen = str(file.parent), [*chosen, f"data.table={json.dumps(file.name)}"]
    settings = data_settings(folder, chosen)
    catalog = catalog_of(settings)
    if not as_json:
        for line in understanding_lines(understood(catalog)):
            typer.echo(line)
    pixels = decode_images(catalog, Geometry(64, 64), cache=pixel_cache(), progress=not (is_quiet() or as_json))
    found = audit_photographs(catalog, pixels, group_by=settings["group_by"], group_linkage=settings["group_linkage"])
    if pictures is not None:
        write_contact_sheet(pictures, catalog.table["image"], found.findings.get("encounters", []), pixels.thumbnails)
    if as_json:
        typer.echo(json.dumps(found.findings, indent=1))
        return
    for line in found.lines(most=None):
        typer.echo(line)


@exits_with_message
def apply_review(
    review: Annotated[Path, typer.Argument(help="A review.csv with its column `confirm` filled in.")],
    data: Annotated[
        Path | None, typer.Option(help="The folder with train.csv and train/. Default: that of the sweep of REVIEW.")
    ] = None,
    set_: DataSettings = None,
) -> None:
    """Write a new training table with the confirmed corrections, beside the old one."""
    from whale_ray.data.review.apply_review import apply_review as apply
    from whale_ray.sweep.report.review.label_review import reviewed_data

    settings, again = reviewed_data(review, data, set_ or [])
    reviewed = apply(review, **settings)
    for line in reviewed.lines:
        typer.echo(line)
    needed = {"table": reviewed.table, **reviewed.settings}
    options = " ".join(f"--set {shlex.quote(f'data.{key}={value}')}" for key, value in needed.items())
    typer.echo(f"{reviewed.path} is written. Sweep it with:\n{again} {options}")
