"""Recognizes the encoding and the separator of delimited text."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterable

SEPARATORS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "vertical bar", " ": "space"}
_BYTE_ORDER_MARKS = {  # UTF-32 first: its mark starts with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_OTHER_TYPES = {
    b"PK\x03\x04": "an Excel or OpenDocument workbook",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"SQLite format 3": "an SQLite database",
    b"\x1f\x8b": "compressed with gzip",
    b"%PDF": "a PDF document",
    b"PAR1": "a Parquet file",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG": "a PNG image",
}
_SAMPLE = 4096  # bytes in which zero bytes are counted


def decode_text(data: bytes) -> tuple[str, str]:
    """Return the text of a file and the name of its encoding, as `bytes.decode` takes it.

    Args:
        data: All bytes of the file.

    Raises:
        ValueError: If the bytes are no text, with the reason as a clause: "it is an Excel workbook".
    """
    for start, kind in _OTHER_TYPES.items():
        if data.startswith(start):
            raise ValueError(f"it is {kind}")
    encoding = _encoding_of(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(
            f"line {line} has the byte 0x{data[error.start]:02x}, which is no character of {encoding}"
        ) from None
    if "\0" in text:
        raise ValueError(f"line {text[: text.index(chr(0))].count(chr(10)) + 1} has a zero byte")
    return text, encoding


def _encoding_of(data: bytes) -> str:
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            return encoding
    zeros = [data[start:_SAMPLE:2].count(0) / max(1, len(data[start:_SAMPLE:2])) for start in (0, 1)]
    if max(zeros) > 0.4 and min(zeros) < 0.1:  # every second byte of Latin text in UTF-16 is zero
        return "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"


def recognize_separator(sample: str, wanted: Iterable[str]) -> str:
    """Return the separator that yields the wanted columns, else the one under which most rows fit the header.

    Args:
        sample: The start of the text.
        wanted: Names of columns, in lower case.
    """
    names = set(wanted)
    return max(SEPARATORS, key=lambda separator: _score(sample, separator, names))  # the first of equals: a comma


def trimmed(cells: list[str]) -> list[str]:
    """Return the cells without empty ones at the end."""
    end = len(cells)
    while end and not cells[end - 1].strip():
        end -= 1
    return cells[:end]


def _score(sample: str, separator: str, wanted: set[str]) -> tuple[int, bool, float, int]:
    """Return the wanted columns found, whether it is no space, the share of rows that fit, and the columns."""
    reader = csv.reader(io.StringIO(sample, newline=""), delimiter=separator, skipinitialspace=True)
    try:
        records = [trimmed(record) for record in reader if trimmed(record)]
    except csv.Error:  # a cell that is longer than the csv module allows
        records = []
    header = [cell.strip().lower() for cell in records[0]] if records else []
    found = len(wanted & set(header))
    if len(header) < 2:
        return found, False, 0.0, 0
    fitting = sum(len(row) in (len(header), len(header) + 1) for row in records)
    return found, separator != " ", fitting / max(1, len(records)), len(header)
