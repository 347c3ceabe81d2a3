"""What becomes of photographs and individuals after a review, and whether all of it can be done together.

Knows the table's photographs and individuals; knows neither what kinds of rows there are nor any file.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
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

    def fault(self, line: int, message: str) -> None:
        """Notes what is wrong with a line."""
        self.faults.append(f"line {line}: {message}")

    def wrong_word(self, row: Row) -> list[str]:
        """What is wrong with what the row's `confirm` says."""
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
        if said == value:
            return
        if kind == "dropped":  # three copies of one picture: each is a copy of both others
            one, other = _end_of(said, decided), _end_of(value, decided)
            if one and other and one != other:
                decided[other] = (one, line)
            return
        self.fault(
            line, f"one thing can become of {key}, but line {before} wants {said} and this one {value}. Empty one"
        )

    def settle(self) -> None:
        """Follows chains of names and of copies to their ends, and notes those that have none."""
        for decided, said in ((self.renamed, "names"), (self.dropped, "copies")):
            ends = {key: _end_of(key, decided) for key in decided}
            for key, end in ends.items():
                if end is None:
                    line = decided[key][1]
                    self.fault(line, f"a chain of {said} must end, but that of {key} comes back to it. Empty one line")
                else:
                    decided[key] = (end, decided[key][1])
        for image in sorted(self.relabelled.keys() & self.dropped.keys()):  # who a copy shows is who the picture shows
            name, line = self.relabelled[image]
            if self.labels[kept := self.dropped[image][0]] != name:
                self.decide("relabelled", kept, name, line)

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
