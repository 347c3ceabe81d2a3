"""Command on data sets for other programs: `export`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whale_ray.commands.options import DataSettings, exits_with_message
from whale_ray.file_errors import real_path

if TYPE_CHECKING:
    from whale_ray.data.exports.exported_rows import ExportedRows

EXPORT_EXAMPLES = """
Examples:

  whale-ray export runs/quickstart exported --format wildlife

  whale-ray export runs/quickstart/best exported --format wildbook

  whale-ray export data exported --format coco --copy-images
"""


@exits_with_message
def export(
    target: Annotated[Path, typer.Argument(help="A run folder, a bundle, or the folder of a data set.")],
    out: Annotated[Path, typer.Argument(help="The folder to write: a new one, or an empty one.")],
    format_: Annotated[str, typer.Option("--format", help="wildlife, coco, camtrap-dp or wildbook.")],
    copy_images: Annotated[
        bool, typer.Option("--copy-images", help="Also copy the photographs to OUT/images.")
    ] = False,
    set_: DataSettings = None,
) -> None:
    """Write the animals of a run, a bundle or a data set for another program."""
    from whale_ray.data.exports.registry import export_rows

    rows = _rows_of(target, set_ or [], copy_images=copy_images)
    remarks = export_rows(rows, format_, out)
    animals, photographs = len(rows.table), rows.table["file"].nunique()
    typer.echo(f"{out} is written: {animals} rows of {photographs} photographs in the format {format_}")
    for remark in remarks:
        typer.echo(f"note: {remark}")
    if rows.folder is not None and not copy_images:
        typer.echo(f"The photographs stay in {rows.folder}: the file names in the tables start there")
    if format_ in ("wildlife", "coco"):
        place = [] if copy_images or rows.folder is None else ["--set", f"data.image_folder={real_path(rows.folder)}"]
        typer.echo(f"Read it again with:\n{shlex.join(['whale-ray', 'audit', str(out), *place])}")


def _rows_of(target: Path, overrides: list[str], *, copy_images: bool) -> ExportedRows:
    from whale_ray.data.exports.exported_rows import ExportedRows
    from whale_ray.sweep.planning.dataset import catalog_of

    if (target / "bundle.json").is_file():
        return _bundle_rows(target, copy_images=copy_images)
    catalog = catalog_of(_data_settings(target, overrides))
    return ExportedRows(catalog.table, catalog.unknown_label, catalog.folder, copy_images)


def _data_settings(target: Path, overrides: list[str]) -> dict[str, object]:
    """Return the data settings of a run, or of the folder of a data set."""
    from whale_ray.sweep.config.sweep_spec import data_settings, load_sweep

    if not (target / "sweep.yaml").is_file():
        return data_settings(target, overrides)
    sweep = load_sweep(target / "sweep.yaml", overrides, is_recorded=True)
    return {key.removeprefix("data."): value for key, value in sweep.fixed.items() if key.startswith("data.")}


def _bundle_rows(folder: Path, *, copy_images: bool) -> ExportedRows:
    from whale_ray.data.exports.exported_rows import ExportedRows
    from whale_ray.data.formats.animal_rows import complete_rows
    from whale_ray.inference.bundle import read_gallery_table

    manifest, gallery = read_gallery_table(folder)
    return ExportedRows(
        complete_rows(gallery.rename(columns={"viewpoint": "view"})), str(manifest["unknown_label"]), None, copy_images
    )
