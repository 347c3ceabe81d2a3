"""What each kind of row of a review needs, and what it does to photographs and individuals.

Knows rows and decisions; reads no file but to see that a confirmed photograph is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from whale_ray.data.review.label_edits import Decisions, Row


@dataclass(frozen=True)
class _Kind:
    """What the rows of a kind need, and what they do."""

    wrong: Callable[[Decisions, Row], list[str]]
    take: Callable[[Decisions, Row], None]


def _chosen(row: Row, otherwise: str) -> str:
    """The name that the row's confirm says: its own, or for yes the other."""
    return otherwise if row["confirm"].lower() == "yes" else row["confirm"]


def _wrong_label(decisions: Decisions, row: Row) -> list[str]:
    unsaid = (
        [] if _chosen(row, row["suggested"]) else ["the row suggests nobody, so that yes says nothing. Write a name"]
    )
    return [*decisions.wrong_photograph(row["image"], row["individual"]), *unsaid]


def _take_label(decisions: Decisions, row: Row) -> None:
    decisions.decide("relabelled", row["image"], _chosen(row, row["suggested"]), row.line)


def _wrong_pair(decisions: Decisions, row: Row) -> list[str]:
    faults = [] if row["image"] != row["other_image"] else [f"two photographs are meant, but both are {row['image']}"]
    faults += decisions.wrong_photograph(row["image"], row["individual"])
    return faults + decisions.wrong_photograph(row["other_image"], row["other_individual"])


def _wrong_new(decisions: Decisions, row: Row) -> list[str]:
    faults = [*_wrong_pair(decisions, row), *_wrong_label(decisions, row)]
    if row["confirm"].lower() == "yes" and row["suggested"] in decisions.individuals:
        faults.append(f"a new individual needs a name of its own, but {row['suggested']} is taken. Write who it is")
    return list(dict.fromkeys(faults))


def _take_new(decisions: Decisions, row: Row) -> None:
    for image in (row["image"], row["other_image"]):
        decisions.decide("relabelled", image, _chosen(row, row["suggested"]), row.line)


def _wrong_merge(decisions: Decisions, row: Row) -> list[str]:
    both = (row["individual"], row["other_individual"])
    faults = [
        f"an individual must be in the table, but {name!r} is not. Take the table that was reviewed"
        for name in both
        if name not in set(decisions.labels.values())
    ]
    if decisions.unknown_label in (*both, _chosen(row, row["suggested"])):
        faults.append(f"individuals are one under a name, but {decisions.unknown_label} is none. Name one of them")
    if both[0] == both[1]:
        faults.append(f"two individuals are meant, but both are {both[0]}")
    return faults


def _take_merge(decisions: Decisions, row: Row) -> None:
    name = _chosen(row, row["suggested"] or row["other_individual"])
    for individual in {row["individual"], row["other_individual"]} - {name}:
        decisions.decide("renamed", individual, name, row.line)


def _wrong_copy(decisions: Decisions, row: Row) -> list[str]:
    faults = _wrong_pair(decisions, row)
    if row["confirm"].lower() == "yes" and row["individual"] != row["other_individual"]:
        faults.append(
            "one picture shows one individual, but this one stands under "
            f"{row['individual']} and {row['other_individual']}. Write the right name instead of yes"
        )
    return faults


def _take_copy(decisions: Decisions, row: Row) -> None:
    decisions.decide("dropped", row["image"], row["other_image"], row.line)
    if (name := _chosen(row, row["other_individual"])) != row["other_individual"]:
        decisions.decide("relabelled", row["other_image"], name, row.line)


def _wrong_addition(decisions: Decisions, row: Row) -> list[str]:
    image, name = row["image"], _chosen(row, row["individual"])
    path = decisions.folder / image
    if image in decisions.labels:
        return [f"a confirmed photograph is new to the table, but {image} is there, of {decisions.labels[image]}"]
    if not image or not path.resolve().is_relative_to(decisions.folder.resolve()) or not path.is_file():
        return [f"a confirmed photograph must lie in {decisions.folder}, but {image!r} does not. Copy it there"]
    return [] if name else ["a confirmed photograph needs its individual, but the row names none"]


def _take_addition(decisions: Decisions, row: Row) -> None:
    decisions.decide("added", row["image"], _chosen(row, row["individual"]), row.line)


# What a person can confirm, by the word in the column `kind`.
_KINDS: dict[str, _Kind] = {
    "near_identical": _Kind(_wrong_copy, _take_copy),
    "mislabelled": _Kind(_wrong_label, _take_label),
    "recognised": _Kind(_wrong_label, _take_label),
    "same_individual": _Kind(_wrong_merge, _take_merge),
    "new_individual": _Kind(_wrong_new, _take_new),
    "confirmed": _Kind(_wrong_addition, _take_addition),
}


def decide(rows: Iterable[Row], labels: Mapping[str, str], *, folder: Path, unknown_label: str) -> Decisions:
    """What all rows together ask for. labels: the individual of each photograph in the table, which lie in `folder`."""
    decisions = Decisions(labels, folder, unknown_label)
    for row in rows:
        _take(row, decisions)
    decisions.settle()
    return decisions


def _take(row: Row, decisions: Decisions) -> None:
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
