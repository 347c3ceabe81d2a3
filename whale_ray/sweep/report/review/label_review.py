"""Label review: review.csv of a run, and the pictures of its most confident findings.

Findings come from the embeddings of the best trials, one per encoder and loss, and from keypoints. No label is changed:
`apply-review` writes a new table from the column `confirm`, whose content is kept when the review is written again.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from whale_ray.atomic_files import write_atomically
from whale_ray.csv_cells import as_cell, from_cell
from whale_ray.data.delimited_table import read_table
from whale_ray.data.image_io import Geometry
from whale_ray.data.review.apply_review import COLUMNS
from whale_ray.errors import InputError
from whale_ray.inference.bundle_transfer.object_store import is_url
from whale_ray.retrieval.label_quality.label_errors import LabelErrors
from whale_ray.retrieval.label_quality.united_findings import unite_findings
from whale_ray.retrieval.search.retrieval_settings import chosen_setting
from whale_ray.sweep.config.sweep_spec import data_settings, load_sweep
from whale_ray.sweep.planning.dataset import geometry_of
from whale_ray.sweep.report.example_matches import Picture
from whale_ray.sweep.report.review.label_votes import choose_voters, matcher_vote, read_votes
from whale_ray.sweep.report.review.near_identical import find_near_identical, twins_of
from whale_ray.sweep.report.thumbnails import Photographs
from whale_ray.sweep.run_folder.optional_json import read_optional_json
from whale_ray.sweep.run_folder.records import Record

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


def write_review(
    record: Record,
    run: Path,
    photographs: Photographs,
    *,
    records: Sequence[Record] = (),
    keypoints: str = "none",
    progress: bool = False,
) -> None:
    """Write review.csv of a run, unless it exists for the same trial, setting and votes.

    A row with a filled `confirm` cell stays, even if the finding no longer occurs.

    Args:
        record: The best trial.
        run: The run folder.
        photographs: The photographs.
        records: All trials, best first; the best of other encoders and losses vote on the labels, too.
        keypoints: Kind of the local features that vote on the labels; `none` for no such vote.
        progress: Show progress bars.
    """
    voters = choose_voters(record, records)
    made_of = {"trial": record.trial, "setting": str(chosen_setting(record.result))}
    made_of |= {"votes": ", ".join([*(one.trial for one in voters), *([] if keypoints == "none" else [keypoints])])}
    if (run / REVIEW).exists() and {key: _notes(run).get(key) for key in made_of} == made_of:
        return
    doubts = _review_trial(voters, run, photographs, keypoints=keypoints, progress=progress)
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


def _review_trial(
    voters: Sequence[Record], run: Path, photographs: Photographs, *, keypoints: str, progress: bool
) -> LabelErrors:
    rows, encoders = read_votes(voters)
    images, individuals, parts = rows.images, rows.individuals, rows.parts
    matcher, unmatched = matcher_vote(rows, keypoints, photographs.catalog, progress=progress)
    doubts = unite_findings(
        encoders, matcher, images=images, individuals=individuals, parts=parts, unknown_label=rows.unknown_label
    )
    columns = pd.DataFrame({"individual": individuals, "part": parts}, index=images).astype(str)
    copies, reason = find_near_identical(
        encoders[0], columns, twins_of(run), photographs.catalog, geometry=_geometry(voters[0]), progress=progress
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
    reasons = {"near_identical": reason, "keypoints": unmatched}
    return LabelErrors(table.assign(confirm=""), doubts.reasons | {key: text for key, text in reasons.items() if text})


def _geometry(record: Record) -> Geometry | None:
    """Return the geometry of the trial's photographs; None if its settings do not have it, as those of an ensemble."""
    data, train = record.settings["data"], record.settings.get("train", {})
    return geometry_of(data, train) if {"image_size", "resize"} <= data.keys() and "affine" in train else None


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
    if is_url(found["root"]):
        raise InputError(
            f"the corrected table is written beside the old one, but data.root is {found['root']}. Download the data "
            "set and name its folder with --data"
        )
    columns = ("image_column", "label_column", "group_column", "view_column", "species_column")
    names = ("table", "image_folder", *columns, "unknown_label")
    settings = {"root": Path(found["root"]), "format_name": found["format"], **{name: found[name] for name in names}}
    return settings, shlex.join(["whale-ray", "sweep", *again])
