"""Kinds of review rows: what each kind requires and which edits it makes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from whale_ray.data.decoding.box_arguments import parse_box
from whale_ray.data.review.label_edits import LabelEdits, ReviewRow
from whale_ray.file_errors import is_inside


@dataclass(frozen=True)
class _RowKind:
    """Check and effect of one kind of row."""

    wrong: Callable[[LabelEdits, ReviewRow], list[str]]
    take: Callable[[LabelEdits, ReviewRow], None]


def _confirmed_name(row: ReviewRow, otherwise: str) -> str:
    """Return the name in the row's `confirm` cell; for `yes`, the other name."""
    return otherwise if row["confirm"].lower() == "yes" else row["confirm"]


def _check_label(decisions: LabelEdits, row: ReviewRow) -> list[str]:
    unsaid = (
        []
        if _confirmed_name(row, row["suggested"])
        else ["the row suggests nobody, so that yes says nothing. Write a name"]
    )
    return [*decisions.wrong_photograph(row["image"], row["individual"]), *unsaid]


def _apply_label(decisions: LabelEdits, row: ReviewRow) -> None:
    decisions.decide("relabelled", row["image"], _confirmed_name(row, row["suggested"]), row.line)


def _check_pair(decisions: LabelEdits, row: ReviewRow) -> list[str]:
    faults = [] if row["image"] != row["other_image"] else [f"two photographs are meant, but both are {row['image']}"]
    faults += decisions.wrong_photograph(row["image"], row["individual"])
    return faults + decisions.wrong_photograph(row["other_image"], row["other_individual"])


def _check_new_individual(decisions: LabelEdits, row: ReviewRow) -> list[str]:
    faults = [*_check_pair(decisions, row), *_check_label(decisions, row)]
    if row["confirm"].lower() == "yes" and row["suggested"] in decisions.individuals:
        faults.append(f"a new individual needs a name of its own, but {row['suggested']} is taken. Write who it is")
    return list(dict.fromkeys(faults))


def _apply_new_individual(decisions: LabelEdits, row: ReviewRow) -> None:
    for image in (row["image"], row["other_image"]):
        decisions.decide("relabelled", image, _confirmed_name(row, row["suggested"]), row.line)


def _check_merge(decisions: LabelEdits, row: ReviewRow) -> list[str]:
    both = (row["individual"], row["other_individual"])
    faults = [
        f"an individual must be in the table, but {name!r} is not. Take the table that was reviewed"
        for name in both
        if name not in set(decisions.labels.values())
    ]
    if decisions.unknown_label in (*both, _confirmed_name(row, row["suggested"])):
        faults.append(f"individuals are one under a name, but {decisions.unknown_label} is none. Name one of them")
    if both[0] == both[1]:
        faults.append(f"two individuals are meant, but both are {both[0]}")
    return faults


def _apply_merge(decisions: LabelEdits, row: ReviewRow) -> None:
    name = _confirmed_name(row, row["suggested"] or row["other_individual"])
    for individual in {row["individual"], row["other_individual"]} - {name}:
        decisions.decide("renamed", individual, name, row.line)


def _check_copy(decisions: LabelEdits, row: ReviewRow) -> list[str]:
    faults = _check_pair(decisions, row)
    if row["confirm"].lower() == "yes" and row["individual"] != row["other_individual"]:
        faults.append(
            "one picture shows one individual, but this one stands under "
            f"{row['individual']} and {row['other_individual']}. Write the right name instead of yes"
        )
    return faults


def _apply_copy(decisions: LabelEdits, row: ReviewRow) -> None:
    decisions.decide("dropped", row["image"], row["other_image"], row.line)
    if (name := _confirmed_name(row, row["other_individual"])) != row["other_individual"]:
        decisions.decide("relabelled", row["other_image"], name, row.line)


def _check_addition(decisions: LabelEdits, row: ReviewRow) -> list[str]:
    image, name = row["image"], _confirmed_name(row, row["individual"])
    path = decisions.folder / image
    try:
        box = parse_box(row["box"]) if row["box"] else None
    except ValueError as error:
        return [f"{error}. Correct it, or empty it for the whole photograph"]
    if label := decisions.label_of(image, box):
        shown = image if box is None else f"box {row['box']} of {image}"
        return [f"a confirmed photograph is new to the table, but {shown} is there, of {label}"]
    if not image or not is_inside(path, decisions.folder) or not path.is_file():
        return [f"a confirmed photograph must lie in {decisions.folder}, but {image!r} does not. Copy it there"]
    return [] if name else ["a confirmed photograph needs its individual, but the row names none"]


def _apply_addition(decisions: LabelEdits, row: ReviewRow) -> None:
    box = parse_box(row["box"]) if row["box"] else None
    details = {name: row[name] for name in ("view", "species") if row[name]}
    decisions.add(row["image"], box, _confirmed_name(row, row["individual"]), row.line, details=details)


# What a person can confirm, by the word in the column `kind`.
_KINDS: dict[str, _RowKind] = {
    "near_identical": _RowKind(_check_copy, _apply_copy),
    "mislabelled": _RowKind(_check_label, _apply_label),
    "recognised": _RowKind(_check_label, _apply_label),
    "same_individual": _RowKind(_check_merge, _apply_merge),
    "new_individual": _RowKind(_check_new_individual, _apply_new_individual),
    "confirmed": _RowKind(_check_addition, _apply_addition),
}


def collect_edits(
    rows: Iterable[ReviewRow],
    labels: Mapping[str, str],
    *,
    folder: Path,
    unknown_label: str,
    boxes: Mapping[str, str] = MappingProxyType({}),
) -> LabelEdits:
    """Return the edits that all rows ask for together.

    Args:
        rows: Rows of the review.
        labels: Individual of each image in the table.
        folder: Folder of the images.
        unknown_label: Label of unknown individuals.
        boxes: Individual of each box in the table, by `animal_name`.
    """
    decisions = LabelEdits(labels, folder, unknown_label, boxes)
    for row in rows:
        _apply_row(row, decisions)
    decisions.settle()
    return decisions


def _apply_row(row: ReviewRow, decisions: LabelEdits) -> None:
    word = row["confirm"]
    if word.lower() in ("", "no"):
        decisions.undecided += word == ""
        decisions.rejected += word != ""
        return
    kind = _KINDS.get(row["kind"])
    if kind is None:
        decisions.fault(row.line, f"a kind is one of {', '.join(_KINDS)}, but got {row['kind']!r}. Leave it as it was")
    elif faults := [*decisions.wrong_word(row), *kind.wrong(decisions, row)]:
        for fault in faults:
            decisions.fault(row.line, fault)
    else:
        decisions.confirmed += 1
        kind.take(decisions, row)
