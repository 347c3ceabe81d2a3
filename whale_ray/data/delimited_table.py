"""Reads tables with a header from delimited text: separator, encoding and true line numbers are recognized.

Reads what spreadsheets, pandas and R write. All cells are text; a cell is never interpreted.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from whale_ray.data.delimited_format import SEPARATORS, decode_text, recognize_separator, trimmed
from whale_ray.errors import DataError
from whale_ray.suggestions import did_you_mean, nearest_names

_ENCODINGS = {"utf-8-sig": "UTF-8 with a byte order mark", "cp1252": "Windows-1252"}
_SAMPLE = 65_536  # characters in which the separator is recognized
_MOST_TITLES = 10  # lines above the header of an exported sheet
_MAX_LISTED = 5
_ROW_NAMES_SHARE = 0.9  # of the rows must be longer than the header; the others are faults
_SHOWN = 80  # characters of a wrong row
_SEPARATOR_LINE = re.compile(r'"?sep=([,;|\t ])"?[ \t]*(?:\r\n|\r|\n)')  # Excel's first line
_IMAGE_NAME = re.compile(r"\.(jpe?g|png|tiff?|webp|heic|bmp|gif)$", re.IGNORECASE)


@dataclass(frozen=True)
class DelimitedTable:
    """The content of a table and how it was read.

    Attributes:
        path: The file.
        cells: One row per row of the file and one column per column, all text, index from 0. Column names may occur
            twice; names and cells have no surrounding blanks.
        lines: Line of the file on which each row starts, from 1; int64, shape (rows,).
        separator: The character between cells.
        encoding: Encoding as `bytes.decode` takes it.
        has_row_names: True if the header is one field shorter than the rows, as R writes it; the first column is then
            called "".
    """

    path: Path
    cells: pd.DataFrame
    lines: np.ndarray
    separator: str
    encoding: str
    has_row_names: bool = False

    @property
    def columns(self) -> list[str]:
        """Column names in the order of the file."""
        return [str(name) for name in self.cells.columns]

    @property
    def recognized(self) -> str:
        """The separator and the encoding as one phrase."""
        encoding = _ENCODINGS.get(self.encoding, self.encoding.upper())
        rows = ", a first column of row names" if self.has_row_names else ""
        return f"separated by {SEPARATORS[self.separator]}, {encoding}{rows}"

    @property
    def notes(self) -> list[str]:
        """Guesses that the reader should check, one sentence each."""
        guess = (
            f"{self.path} is neither UTF-8 nor UTF-16 and was read as Windows-1252. If names look wrong, save it as "
            "CSV UTF-8"
        )
        return [guess] if self.encoding == "cp1252" else []

    def column(self, name: str) -> pd.Series:
        """Return one column as text, index from 0.

        Raises:
            DataError: If the column does not exist or exists twice.
        """
        self.require([name])
        return self.cells.iloc[:, self.columns.index(name)]

    def numbers(self, name: str) -> pd.Series:
        """Return one column as float64, NaN for cells that are no number; a comma may be the decimal point.

        Raises:
            DataError: If the column does not exist or exists twice.
        """
        text = self.column(name)
        if self.separator != ",":
            text = text.str.replace(",", ".", regex=False)
        return pd.to_numeric(text, errors="coerce").astype(float)

    def require(self, names: Iterable[str], *, remedy: str = "") -> None:
        """Check that each column exists once.

        Args:
            names: The columns.
            remedy: Last sentence of the message about a missing column.

        Raises:
            DataError: With all columns that are missing, or that exist twice.
        """
        found = self.columns
        wanted = list(dict.fromkeys(names))
        absent = [name for name in wanted if name not in found]
        if absent:
            raise DataError(" ".join([self._absent_columns(absent), *([remedy] if remedy else [])]))
        if twice := [name for name in wanted if found.count(name) > 1]:
            raise DataError(
                f"{self.path} must have one column {' and one '.join(twice)}, but the header names "
                f"{found.count(twice[0])} of that name. Rename or remove all but one"
            )

    def _absent_columns(self, absent: Sequence[str]) -> str:
        found = [name for name in self.columns if name]
        hints = [did_you_mean(names, instead_of=name) for name in absent if (names := nearest_names(name, found))]
        if any(_IMAGE_NAME.search(name) for name in found):
            hints = ["The first line must name the columns, but it seems to be a row. Add a header."]
        for line, row in zip(self.lines[:_MOST_TITLES], self.cells.to_numpy()[:_MOST_TITLES], strict=True):
            if set(absent) <= set(row):
                hints = [f"Line {line} names them: delete the lines above it."]
        return " ".join(
            [
                f"{self.path} must have the column{'s' if len(absent) > 1 else ''} {', '.join(absent)}, "
                f"but has {', '.join(found) or 'none'} ({self.recognized}).",
                *hints,
            ]
        )


def read_table(path: Path, *, columns: Iterable[str] = (), fill_short_rows: bool = False) -> DelimitedTable:
    """Return the table in a file.

    The separator is a comma, a tab, a semicolon, a vertical bar or spaces. Rows without any content are passed over;
    so are empty last columns without a name, which a separator at the end of each line makes.

    Args:
        path: The file.
        columns: Columns that the caller will use; the separator that yields them is preferred. They are not required.
        fill_short_rows: Read a row that is shorter than the header as if empty cells followed; False refuses it.

    Raises:
        DataError: If the file cannot be read, is no text, or has lines with another number of fields than the header.
    """
    try:
        text, encoding = decode_text(path.read_bytes())
    except ValueError as error:
        raise DataError(
            f"a table must be delimited text, but {path} is not: {error}. Save it as CSV in UTF-8"
        ) from None
    except OSError as error:
        raise DataError(f"a table must be a readable file, but {path}: {error.strerror}. Name another file") from None
    named = _SEPARATOR_LINE.match(text)
    separator = named[1] if named else recognize_separator(text[:_SAMPLE], {name.lower() for name in columns})
    lines, records = _parse(path, text, separator)
    if named:
        lines, records = lines[1:], records[1:]
    if not records:
        raise DataError(f"a table must have a header, but {path} is empty. Name the columns in its first line")
    header, rows, has_row_names = _aligned(records, is_quoted=text.lstrip().startswith('"'))
    if fill_short_rows:
        rows = [row + [""] * (len(header) - len(row)) for row in rows]
    if wrong := [(line, row) for line, row in zip(lines[1:], rows, strict=True) if not _fits(row, header)]:
        raise DataError(_width_fault(path, header, wrong, len(rows), separator))
    width = max(len(trimmed(row)) for row in [header, *rows])
    cells = pd.DataFrame(
        [(row + [""] * width)[:width] for row in rows], columns=(header + [""] * width)[:width], dtype=str
    )
    return DelimitedTable(path, cells, np.array(lines[1:], dtype=np.int64), separator, encoding, has_row_names)


def _aligned(records: list[list[str]], *, is_quoted: bool) -> tuple[list[str], list[list[str]], bool]:
    """Return the header, the rows, and whether a column "" of row names was added to the header.

    R writes row names that its header does not count. An unquoted separator in a cell also makes a row longer, so that
    row names are those of a file with a quoted header, or whole numbers; they never repeat.
    """
    header, rows = records[0], records[1:]
    width = len(header)
    names = [row[0] for row in rows if len(row) > width and len(trimmed(row)) <= width + 1]
    is_longer = len(names) > _ROW_NAMES_SHARE * len(rows) and any(row[width] for row in rows if len(row) > width)
    if is_longer and len(set(names)) == len(names) and (is_quoted or all(map(str.isdecimal, names))):
        return ["", *header], rows, True
    return header, rows, False


def _fits(row: list[str], header: list[str]) -> bool:
    named = len(trimmed(header))
    return len(row) == len(header) or len(trimmed(row)) <= named <= len(row)


def _width_fault(path: Path, header: list[str], wrong: list[tuple[int, list[str]]], count: int, separator: str) -> str:
    lines = [
        f"every row of {path} must have the {len(trimmed(header))} fields of its header "
        f"({separator.join(trimmed(header))}), but {len(wrong)} of {count} have not:"
    ]
    for line, row in wrong[:_MAX_LISTED]:
        fields = max(len(trimmed(row)), min(len(row), len(header)))
        lines.append(f"  line {line} has {fields}: {separator.join(row)[:_SHOWN]}")
    if len(wrong) > _MAX_LISTED:
        lines.append(f"  and {len(wrong) - _MAX_LISTED} more")
    name = SEPARATORS[separator]
    lines.append(f"  Put a cell that contains a {name} in double quotes; a missing cell needs its {name}")
    if 1 < len(wrong) > count / 2:  # the first line may be a title or a comment
        width = len(trimmed(wrong[-1][1]))
        header_line = next(line for line, row in wrong if len(trimmed(row)) == width)
        lines.append(f"  If line {header_line} names the columns, delete the lines above it")
    return "\n".join(lines)


def _parse(path: Path, text: str, separator: str) -> tuple[list[int], list[list[str]]]:
    """Return the line on which each record with content starts, and its stripped cells."""
    lines, records, is_whole = _records(text, separator)
    if not is_whole:
        start = lines[-1]
        lines, records, is_whole = _records(text.replace('\\"', '""'), separator)  # R's write.table escapes quotes so
    if not is_whole:
        raise DataError(
            "a quoted cell must end with a double quote and a separator, but one in the row that starts on line "
            f'{start} of {path} does not. Close the quote; a quote inside a cell is written twice ("")'
        )
    return lines, records


def _records(text: str, separator: str) -> tuple[list[int], list[list[str]], bool]:
    """Return lines and records up to a quote that is not closed, then that line, and whether all could be read."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    lines, records, start = [], [], 1
    try:
        for record in reader:
            cells = [cell.strip() for cell in record]
            if any(cells):
                lines.append(start)
                records.append(cells)
            start = reader.line_num + 1
    except csv.Error:
        return [*lines, start], records, False
    return lines, records, True
