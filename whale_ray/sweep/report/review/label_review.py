"""Label review: review.csv of a run, and the pictures of its most confident findings.

Findings come from the embeddings of the best trial under its retrieval setting. No label is changed: `apply-review`
writes a new table from the column `confirm`, whose content is kept when the review is written again.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from whale_ray.atomic_files import write_atomically
from whale_ray.csv_cells import as_cell, from_cell
from whale_ray.data.delimited_table import read_table
from whale_ray.data.image_io import Geometry
from whale_ray.data.review.apply_review import COLUMNS
from whale_ray.errors import InputError
from whale_ray.retrieval.label_quality.label_errors import LabelErrors, find_label_errors
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting, VectorTransform, chosen_setting
from whale_ray.retrieval.transformed_vectors import TransformedVectors
from whale_ray.sweep.config.sweep_spec import data_settings, load_sweep
from whale_ray.sweep.planning.dataset import geometry_of
from whale_ray.sweep.report.example_matches import Picture
from whale_ray.sweep.report.review.near_identical import find_near_identical, twins_of
from whale_ray.sweep.report.thumbnails import Photographs
from whale_ray.sweep.run_folder.optional_json import read_optional_json
from whale_ray.sweep.run_folder.records import Record
from whale_ray.sweep.trials.embeddings_io import read_embeddings

REVIEW = "review.csv"
_NOTES = "review.json"
_KEY = ["kind", "image", "individual", "other_image", "other_individual", "suggested"]
_SHOWN = 6

# What each kind of finding asks, for the page; in the order of review.csv.
QUESTIONS = {
    "near_identical": "Is this one picture, there twice? (yes leaves the first out)",
    "mislabelled": "Is the first photograph of the second one's individual?",
    "recognised": "Is this unknown animal the second photograph's individual?",
    "same_individual": "Are these two individuals one? (yes gives both the second name)",
    "new_individual": "Are these two unknown animals one?",
}


@dataclass(frozen=True)
class Shown:
    """Findings of one kind on the page.

    Attributes:
        question: Heading.
        count: Number of findings.
        across: Findings across the split.
        findings: The findings that are shown.
        reason: Why the kind could not be judged.
    """

    question: str
    count: int
    across: int
    findings: tuple[dict[str, Any], ...]
    reason: str


def write_review(record: Record, run: Path, photographs: Photographs, *, progress: bool = False) -> None:
    """Write review.csv of a finished trial, unless it exists for the same trial and setting.

    A row with a filled `confirm` cell stays, even if the finding no longer occurs.

    Args:
        record: The trial.
        run: The run folder.
        photographs: The photographs.
        progress: Show progress bars.
    """
    made_of = {"trial": record.trial, "setting": str(chosen_setting(record.result))}
    if (run / REVIEW).exists() and {key: _notes(run).get(key) for key in made_of} == made_of:
        return
    doubts = _review_trial(record, run, photographs, progress=progress)
    write_atomically(run / REVIEW, _with_confirmed(doubts.table, run).map(_cell).to_csv(index=False))
    write_atomically(run / _NOTES, json.dumps({**made_of, "reasons": doubts.reasons}, indent=1))


def _cell(value: Any) -> Any:
    return as_cell(value) if isinstance(value, str) else round(value, 3)


def _notes(run: Path) -> dict[str, Any]:
    return read_optional_json(run / _NOTES)


def read_review(run: Path) -> pd.DataFrame:
    """Return the columns `COLUMNS` of review.csv, all text, "" for a column it lacks; empty if it does not exist."""
    path = run / REVIEW
    if not path.exists():
        return pd.DataFrame(columns=list(COLUMNS), dtype=str)
    cells = read_table(path, columns=COLUMNS, fill_short_rows=True).cells.map(from_cell)
    return cells.loc[:, ~cells.columns.duplicated()].reindex(columns=list(COLUMNS), fill_value="")


def _with_confirmed(found: pd.DataFrame, run: Path) -> pd.DataFrame:
    """Return the findings with earlier `confirm` cells."""
    old = read_review(run)
    written = old[old["confirm"].str.strip() != ""]
    entered = {tuple(row[name] for name in _KEY): str(row["confirm"]) for row in written.to_dict("records")}
    found = found.assign(confirm=[entered.get(tuple(key), "") for key in found[_KEY].to_numpy()])
    there = {tuple(key) for key in found[_KEY].to_numpy()}
    gone = written[[tuple(key) not in there for key in written[_KEY].to_numpy()]]
    return pd.concat([found, gone.assign(confidence=0.0)[list(COLUMNS)]], ignore_index=True) if len(gone) else found


def _review_trial(record: Record, run: Path, photographs: Photographs, *, progress: bool) -> LabelErrors:
    views, table = read_embeddings(record.folder)
    first = (table["split"] == 0).to_numpy()  # of several folds one is enough: each has every photograph
    views = {name: view[first] for name, view in views.items()}
    images, individuals, parts = (table.loc[first, name].to_numpy(str) for name in ("image", "individual", "part"))
    unknown = str(record.settings["data"].get("unknown_label", "new_whale"))
    held = TransformedVectors(views, individuals=individuals, parts=parts, unknown_label=unknown)
    taught = individuals[(parts == "train") & (individuals != unknown)]
    vectors = held.seen(_view(chosen_setting(record.result), taught))
    doubts = find_label_errors(vectors, images=images, individuals=individuals, parts=parts, unknown_label=unknown)
    columns = pd.DataFrame({"individual": individuals, "part": parts}, index=images).astype(str)
    copies, reason = find_near_identical(
        vectors, columns, twins_of(run), photographs.catalog, geometry=_geometry(record), progress=progress
    )
    pairs = {frozenset((row["image"], row["other_image"])) for row in copies}
    labels = [
        row
        for row in doubts.table.to_dict("records")
        if row["kind"] != "new_individual" or frozenset((row["image"], row["other_image"])) not in pairs
    ]
    table = pd.DataFrame([*copies, *labels], columns=list(COLUMNS))
    part = columns["part"]
    table["parts"] = table["image"].map(part) + ", " + table["other_image"].map(part)
    return LabelErrors(table.assign(confirm=""), doubts.reasons | ({"near_identical": reason} if reason else {}))


def _geometry(record: Record) -> Geometry | None:
    """Return the geometry of the trial's photographs; None if its settings do not have it, as those of an ensemble."""
    data, train = record.settings["data"], record.settings.get("train", {})
    return geometry_of(data, train) if {"image_size", "resize"} <= data.keys() and "affine" in train else None


def _view(setting: RetrievalSetting, taught: np.ndarray) -> VectorTransform:
    """Return the setting's transform, with learned whitening if it has none, since some cosines differ too little."""
    twice = len(np.unique(taught)) < len(taught)
    return setting.transform if setting.whiten != "none" or not twice else replace(setting.transform, whiten="learned")


def show_review(run: Path, photographs: Photographs) -> dict[str, Shown]:
    """Return what the page shows of each kind; empty if there is no review.

    Args:
        run: The run folder.
        photographs: The photographs.
    """
    table, reasons = read_review(run), _notes(run).get("reasons", {})
    if not (run / REVIEW).exists():
        return {}
    return {kind: _shown(table[table["kind"] == kind], kind, reasons, photographs) for kind in QUESTIONS}


def _shown(rows: pd.DataFrame, kind: str, reasons: Mapping[str, str], photographs: Photographs) -> Shown:
    across = sum(len(set(parts.split(", "))) > 1 for parts in rows["parts"])
    findings = tuple(_finding(row, photographs) for row in rows.head(_SHOWN).to_dict("records"))
    return Shown(QUESTIONS[kind], len(rows), across, findings, reasons.get(kind, ""))


def _finding(row: Mapping[Any, Any], photographs: Photographs) -> dict[str, Any]:
    pictures = []
    for start, part in zip(("", "other_"), str(row["parts"]).partition(", ")[::2], strict=True):
        data, reason = photographs.thumbnail(str(row[f"{start}image"]))
        individual = str(row[f"{start}individual"])
        pictures.append(
            Picture(
                str(row[f"{start}image"]),
                individual,
                {"val": "validates", "train": "trains"}.get(part, part),
                None,
                data,
                reason,
            )
        )
    return {
        "pictures": pictures,
        "confidence": _number(str(row["confidence"])),
        "suggested": row["suggested"],
        "confirm": row["confirm"],
    }


def _number(cell: str) -> float:
    """Return the number of a cell that a spreadsheet may have saved with a decimal comma; 0 if it is none."""
    try:
        return float(cell.replace(",", "."))
    except ValueError:
        return 0.0


def reviewed_data(review: Path, data: Path | None, overrides: list[str]) -> tuple[dict[str, Any], str]:
    """Return the data settings of the reviewed table, and the command that sweeps it again, without its table.

    Args:
        review: Path of the review.
        data: Folder of the data set; None for that of the sweep beside the review.
        overrides: `data` settings, as in a sweep file.

    Raises:
        InputError: If neither a sweep beside the review nor `data` names the table.
    """
    file = review.parent / "sweep.yaml"
    given = [*([] if data is None else ["--data", str(data)]), *(part for one in overrides for part in ("--set", one))]
    if file.is_file():
        sweep = load_sweep(file, overrides, data=data, is_recorded=True)
        found = {key.removeprefix("data."): value for key, value in sweep.fixed.items()}
        runs = file.parent.parent
        elsewhere = [] if runs == Path("runs") else ["--runs", str(runs)]
        again = [str(file), *given, *elsewhere, "--set", f"name={sweep.name}_reviewed"]
    elif data is not None:
        found, again = data_settings(data, overrides), ["SWEEP.yaml", *given]
    else:
        raise InputError(
            f"the table of a review must be known, but beside {review} is no sweep.yaml. Name its folder with --data"
        )
    names = ("table", "image_folder", "image_column", "label_column", "group_column", "unknown_label")
    settings = {"root": Path(found["root"]), "format_name": found["format"], **{name: found[name] for name in names}}
    return settings, shlex.join(["whale-ray", "sweep", *again])
