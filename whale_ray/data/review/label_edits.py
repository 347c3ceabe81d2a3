"""Edits of labels that a review asks for, and the conflicts between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from whale_ray.data.formats.animal_rows import BOX, animal_name, box_text
from whale_ray.data.image_io import Box
from whale_ray.suggestions import suggest

_MAX_LISTED = 10


@dataclass(frozen=True)
class ReviewRow:
    """One row of a review.

    Attributes:
        line: Line of the file on which the row starts.
        cells: Cell by column name.
    """

    line: int
    cells: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells.get(column, "")


@dataclass
class LabelEdits:
    """The edits of a review, by image or individual, each with the line that asks for it.

    Attributes:
        labels: Individual of each image in the table.
        folder: Folder of the images.
        unknown_label: Label of unknown individuals.
        boxes: Individual of each box in the table, by `animal_name`.
        relabelled: New individual by image.
        dropped: Image that stays, by image that is removed.
        renamed: New name by individual.
        added: Individual by new image, or by `animal_name` of a new box.
        added_cells: Cells of the new row by its key in `added`: `file`, and x0, y0, x1, y1, view, species if known.
        faults: Faults found so far.
        confirmed: Number of confirmed rows.
        rejected: Number of rows that say no.
        undecided: Number of empty rows.
    """

    labels: Mapping[str, str]
    folder: Path
    unknown_label: str
    boxes: Mapping[str, str]
    relabelled: dict[str, tuple[str, int]] = field(default_factory=dict)
    dropped: dict[str, tuple[str, int]] = field(default_factory=dict)
    renamed: dict[str, tuple[str, int]] = field(default_factory=dict)
    added: dict[str, tuple[str, int]] = field(default_factory=dict)
    added_cells: dict[str, dict[str, str]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    confirmed: int = 0
    rejected: int = 0
    undecided: int = 0

    def __post_init__(self) -> None:
        self.individuals = set(self.labels.values()) | {self.unknown_label}

    def fault(self, line: int, message: str) -> None:
        """Record a fault of a line.

        Args:
            line: Line number in the review.
            message: The fault.
        """
        self.faults.append(f"line {line}: {message}")

    def wrong_word(self, row: ReviewRow) -> list[str]:
        """Return the faults of the row's `confirm` cell."""
        word = row["confirm"]
        own = {row["individual"], row["other_individual"], row["suggested"]} - {""}
        if word.lower() == "yes" or word in self.individuals | own:
            return []
        hint = suggest(word, ["yes", "no", *sorted(self.individuals)])
        return [
            f"confirm is yes, no, empty or the name of an individual of the table, but got {word!r}. {hint}".rstrip()
        ]

    def wrong_photograph(self, image: str, individual: str) -> list[str]:
        """Return the faults of a row that says `image` shows `individual`.

        Args:
            image: File name of an image of the table.
            individual: Individual that the review has for it.
        """
        if image not in self.labels:
            return [f"a photograph must be in the table, but {image!r} is not. Take the table that was reviewed"]
        if self.labels[image] != individual:
            return [
                f"the table must be the one that was reviewed, but there {image} is of {self.labels[image]}, "
                f"not of {individual!r}. Sweep again for a review of this table"
            ]
        return []

    def label_of(self, file: str, box: Box | None) -> str | None:
        """Return the individual that the table has for a photograph or a box in it; None if it has none.

        Args:
            file: File name of the photograph.
            box: Box of the animal; None for the whole photograph.
        """
        return self.labels.get(file) if box is None else self.boxes.get(animal_name(file, box))

    def add(self, file: str, box: Box | None, individual: str, line: int, *, details: Mapping[str, str]) -> None:
        """Record a new row for a photograph, or for a box in it.

        Args:
            file: File name of the photograph.
            box: Box of the animal; None for the whole photograph.
            individual: Its individual.
            line: Line that asks for it.
            details: Its `view` and `species`, as far as they are known.
        """
        name = file if box is None else animal_name(file, box)
        sides = {} if box is None else dict(zip(BOX, box_text(box).split(","), strict=True))
        cells = {"file": file, **sides, **details}
        if self.added_cells.setdefault(name, cells) != cells:
            self.fault(
                line, f"an animal has one view and one species, but an earlier line differs for {name}. Empty one"
            )
        self.decide("added", name, individual, line)

    def decide(self, kind: str, key: str, value: str, line: int) -> None:
        """Record that `key` becomes `value`; a fault if another line asks for something else.

        Args:
            kind: `relabelled`, `dropped`, `renamed` or `added`.
            key: The image or individual that is changed.
            value: What it becomes.
            line: Line that asks for it.
        """
        decided: dict[str, tuple[str, int]] = getattr(self, kind)
        decided_value, before = decided.setdefault(key, (value, line))
        if decided_value == value:
            return
        if kind == "dropped":  # three copies of one picture: each is a copy of both others
            one, other = _chain_end(decided_value, decided), _chain_end(value, decided)
            if one and other and one != other:
                decided[other] = (one, line)
            return
        self.fault(
            line,
            f"one thing can become of {key}, but line {before} wants {decided_value} and this one {value}. Empty one",
        )

    def settle(self) -> None:
        """Follow chains of names and of copies to their ends; a cyclic chain is a fault."""
        for decided, kind in ((self.renamed, "names"), (self.dropped, "copies")):
            ends = {key: _chain_end(key, decided) for key in decided}
            for key, end in ends.items():
                if end is None:
                    line = decided[key][1]
                    self.fault(line, f"a chain of {kind} must end, but that of {key} comes back to it. Empty one line")
                else:
                    decided[key] = (end, decided[key][1])
        for image in sorted(self.relabelled.keys() & self.dropped.keys()):  # who a copy shows is who the picture shows
            name, line = self.relabelled[image]
            if self.labels[kept := self.dropped[image][0]] != name:
                self.decide("relabelled", kept, name, line)

    def counted(self) -> str:
        """Return how many rows are not confirmed, as text."""
        return f"{self.undecided} are undecided and {self.rejected} say no"

    def final_name(self, individual: str) -> str:
        """Return the name of an individual after all edits."""
        return self.renamed.get(individual, (individual, 0))[0]

    def applied(
        self, table: pd.DataFrame, *, image_column: str, label_column: str, columns: Mapping[str, str]
    ) -> pd.DataFrame:
        """Return the table with all edits applied.

        Args:
            table: The training table, whose rows are those of `labels` in their order.
            image_column: Column of file names.
            label_column: Column of individuals.
            columns: Column of each other cell in `added_cells`.
        """
        images = pd.Series(list(self.labels), index=table.index)
        changed = table.copy()
        for place, image in zip(table.index, images, strict=True):
            before = self.labels[image]
            after = self.final_name(self.relabelled.get(image, (before, 0))[0])
            if after != before:
                changed.loc[place, label_column] = after
        kept = changed[~images.isin(self.dropped)]
        blank = dict.fromkeys(table.columns, "")
        rows = []
        for image, (name, _) in self.added.items():
            cells = dict(self.added_cells[image])
            row = blank | {image_column: cells.pop("file"), label_column: self.final_name(name)}
            rows.append(row | {columns[key]: value for key, value in cells.items()})
        return pd.concat([kept, pd.DataFrame(rows)], ignore_index=True) if rows else kept

    def lines(self) -> list[str]:
        """Return the edits as lines of text."""
        relabelled = [
            f"{image}: {self.labels[image]} -> {self.final_name(name)}"
            for image, (name, _) in self.relabelled.items()
            if image not in self.dropped
        ]
        return [
            *_section("photographs get another individual", relabelled),
            *_section("individuals get another name", [f"{old} -> {new}" for old, (new, _) in self.renamed.items()]),
            *_section("photographs are left out", [f"{one}: as {kept}" for one, (kept, _) in self.dropped.items()]),
            *_section(
                "photographs are added",
                [f"{image}: {self.final_name(name)}" for image, (name, _) in self.added.items()],
            ),
            f"{self.confirmed} rows are confirmed; {self.counted()}",
        ]


def _section(what: str, rows: list[str]) -> list[str]:
    more = len(rows) - _MAX_LISTED
    return [
        f"{len(rows)} {what}:",
        *(f"  {row}" for row in rows[:_MAX_LISTED]),
        *([f"  and {more} more"] * (more > 0)),
    ] * (len(rows) > 0)


def _chain_end(key: str, decided: Mapping[str, tuple[str, int]]) -> str | None:
    """Return the end of the chain that starts at `key`; None if it is cyclic."""
    seen = {key}
    while key in decided:
        key = decided[key][0]
        if key in seen:
            return None
        seen.add(key)
    return key
