"""What each row of a review asks for, and whether all of it can be done together.

Knows rows, photographs' names and their individuals; reads no file but to see that a confirmed photograph is there.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

_SHOWN = 10


@dataclass(frozen=True)
class Row:
    """One row of the review, and the line of the file that it ends on."""

    line: int
    cells: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells.get(column, "")


@dataclass
class Decisions:
    """What the rows ask for: by photograph or individual, what becomes of it and the line that says so.

    labels: the individual of each photograph in the table.
    """

    labels: Mapping[str, str]
    folder: Path
    unknown_label: str
    relabelled: dict[str, tuple[str, int]] = field(default_factory=dict)
    dropped: dict[str, tuple[str, int]] = field(default_factory=dict)
    renamed: dict[str, tuple[str, int]] = field(default_factory=dict)
    added: dict[str, tuple[str, int]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    confirmed: int = 0
    rejected: int = 0
    undecided: int = 0

    def __post_init__(self) -> None:
        self.individuals = set(self.labels.values()) | {self.unknown_label}

    def take(self, row: Row) -> None:
        """Takes one row in, or notes what is wrong with it."""
        word = row["confirm"]
        if word.lower() in ("", "no"):
            self.undecided += word == ""
            self.rejected += word != ""
            return
        kind = _KINDS.get(row["kind"])
        if kind is None:
            self._fault(row.line, f"a kind is one of {', '.join(_KINDS)}, but got {row['kind']!r}. Leave it as it was")
        elif faults := [*self._wrong_word(row), *kind.wrong(self, row)]:
            for fault in faults:
                self._fault(row.line, fault)
        else:
            self.confirmed += 1
            kind.take(self, row)

    def _fault(self, line: int, message: str) -> None:
        self.faults.append(f"line {line}: {message}")

    def _wrong_word(self, row: Row) -> list[str]:
        word = row["confirm"]
        own = {row["individual"], row["other_individual"], row["suggested"]} - {""}
        if word.lower() == "yes" or word in self.individuals | own:
            return []
        near = difflib.get_close_matches(word, ["yes", "no", *sorted(self.individuals)], n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        return [f"confirm is yes, no, empty or the name of an individual of the table, but got {word!r}.{hint}"]

    def wrong_photograph(self, image: str, individual: str) -> list[str]:
        """What is wrong where the row says that the table's `image` is of `individual`."""
        if image not in self.labels:
            return [f"a photograph must be in the table, but {image!r} is not. Take the table that was reviewed"]
        if self.labels[image] != individual:
            return [
                f"the table must be the one that was reviewed, but there {image} is of {self.labels[image]}, "
                f"not of {individual!r}. Sweep again for a review of this table"
            ]
        return []

    def decide(self, kind: str, key: str, value: str, line: int) -> None:
        """Notes that `value` becomes of `key`; a fault where another line wants something else."""
        decided: dict[str, tuple[str, int]] = getattr(self, kind)
        said, before = decided.setdefault(key, (value, line))
        if said != value:
            self._fault(
                line, f"one thing can become of {key}, but line {before} wants {said} and this one {value}. Empty one"
            )

    def settle(self) -> None:
        """Follows chains of names and of copies to their ends, and notes those that have none."""
        for decided, said in ((self.renamed, "names"), (self.dropped, "copies")):
            ends = {key: _end_of(key, decided) for key in decided}
            for key, end in ends.items():
                if end is None:
                    line = decided[key][1]
                    self._fault(line, f"a chain of {said} must end, but that of {key} comes back to it. Empty one line")
                else:
                    decided[key] = (end, decided[key][1])

    def counted(self) -> str:
        """How many rows are not confirmed."""
        return f"{self.undecided} are undecided and {self.rejected} say no"

    def final_name(self, individual: str) -> str:
        """The name of an individual when all is done."""
        return self.renamed.get(individual, (individual, 0))[0]

    def applied(self, table: pd.DataFrame, *, image_column: str, label_column: str) -> pd.DataFrame:
        """The new table."""
        images = table[image_column].str.strip()
        changed = table.copy()
        for place, image in zip(table.index, images, strict=True):
            before = self.labels[image]
            after = self.final_name(self.relabelled.get(image, (before, 0))[0])
            if after != before:
                changed.loc[place, label_column] = after
        kept = changed[~images.isin(self.dropped)]
        blank = dict.fromkeys(table.columns, "")
        rows = [
            blank | {image_column: image, label_column: self.final_name(name)}
            for image, (name, _) in self.added.items()
        ]
        return pd.concat([kept, pd.DataFrame(rows)], ignore_index=True) if rows else kept

    def lines(self) -> list[str]:
        """What is changed, for a person."""
        relabelled = [
            f"{image}: {self.labels[image]} -> {self.final_name(name)}"
            for image, (name, _) in self.relabelled.items()
            if image not in self.dropped
        ]
        return [
            *_listed("photographs get another individual", relabelled),
            *_listed("individuals get another name", [f"{old} -> {new}" for old, (new, _) in self.renamed.items()]),
            *_listed("photographs are left out", [f"{one}: as {kept}" for one, (kept, _) in self.dropped.items()]),
            *_listed(
                "photographs are added",
                [f"{image}: {self.final_name(name)}" for image, (name, _) in self.added.items()],
            ),
            f"{self.confirmed} rows are confirmed; {self.counted()}",
        ]


def _listed(what: str, rows: list[str]) -> list[str]:
    more = len(rows) - _SHOWN
    return [f"{len(rows)} {what}:", *(f"  {row}" for row in rows[:_SHOWN]), *([f"  and {more} more"] * (more > 0))] * (
        len(rows) > 0
    )


def _end_of(key: str, decided: Mapping[str, tuple[str, int]]) -> str | None:
    """Where the chain from `key` ends; None where it comes back to itself."""
    seen = {key}
    while key in decided:
        key = decided[key][0]
        if key in seen:
            return None
        seen.add(key)
    return key


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
        decisions.take(row)
    decisions.settle()
    return decisions
