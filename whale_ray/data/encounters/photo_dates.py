"""Dates of photographs: many spellings become ISO 8601 text without a time zone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import pandas as pd

_MISSING = {"", "nan", "none", "null", "na", "n/a", "nat", "unknown"}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_TIME = (
    r"(?:(?:[T _-]+|, *)(?P<hour>\d{1,2})[:.h]?(?P<minute>\d{2})(?:[:.]?(?P<second>\d{2})(?:[.,]\d+)?)?"
    r" *(?P<half>[AaPp][Mm])? *(?:Z|UTC|[+-]\d{2}:?\d{2})?)?"
)
_YEAR_FIRST = re.compile(r"(?P<year>\d{4})(?P<sep>[-/.:]?)(?P<month>\d{1,2})(?P=sep)(?P<day>\d{1,2})" + _TIME)
_DAY_NAMED = re.compile(r"(?P<day>\d{1,2})[ .-]*(?P<name>[A-Za-z]{3,9})[ .,-]*(?P<year>\d{4})" + _TIME)
_MONTH_NAMED = re.compile(r"(?P<name>[A-Za-z]{3,9})[ .]*(?P<day>\d{1,2}),? +(?P<year>\d{4})" + _TIME)
_YEAR_LAST = re.compile(r"(?P<first>\d{1,2})(?P<sep>[-/.])(?P<second_number>\d{1,2})(?P=sep)(?P<year>\d{4})" + _TIME)
_PARTIAL = re.compile(r"(?P<year>\d{4})(?:[-/.](?P<month>\d{1,2}))?")
_COMPACT = re.compile(r"\d{8}(?:\D|$)")


@dataclass(frozen=True)
class ParsedDates:
    """Dates of a column.

    Attributes:
        dates: ISO 8601 text, `2019-05-03T10:11:12`, shorter where the time, the day or the month is not known; "" for
            none. Index of the cells.
        wrong: Index and text of the cells that are no date.
        note: Remark on the order of day and month; "" if there is no doubt.
    """

    dates: pd.Series
    wrong: tuple[tuple[object, str], ...]
    note: str = ""


def parse_dates(cells: pd.Series) -> ParsedDates:
    """Return the dates of a column of texts.

    Reads `2019-05-03 10:11:12`, `2019:05:03 10:11:12` (EXIF), `20190503`, `3 May 2019`, `May 3, 2019`, `03.05.2019`,
    `3/5/2019`, `2019-05` and `2019`, with or without a time. Time zones are dropped: the time is the one on the spot.
    In `3/5/2019` the day comes first, unless another cell of the column has a second number above 12.

    Args:
        cells: Texts.
    """
    texts = cells.astype(str).str.strip()
    month_first, note = _order_of_numbers(texts)
    found = {text: _iso_date(text, month_first=month_first) for text in texts.unique()}
    dates = texts.map(lambda text: found[text] or "").astype(object)
    wrong = [(index, text) for index, text in texts.items() if found[text] is None]
    return ParsedDates(dates, tuple(wrong), note)


def date_notes(parsed: ParsedDates, unit: str, *, most: int = 5) -> list[str]:
    """Return the remarks on a column of dates for the reader of the audit.

    Args:
        parsed: The dates; their index is the position of each cell.
        unit: Word for a position, such as line.
        most: Number of cells that are listed.
    """
    notes = [parsed.note] if parsed.note else []
    if parsed.wrong:
        shown = ", ".join(f"{text!r} ({unit} {index})" for index, text in parsed.wrong[:most])
        more = f" and {len(parsed.wrong) - most} more" if len(parsed.wrong) > most else ""
        count = len(parsed.wrong)
        notes.append(
            f"{count} {'date' if count == 1 else 'dates'} cannot be read and count as none: {shown}{more}. "
            "Write them as 2019-05-03 or 2019-05-03 10:11:12"
        )
    return notes


def photograph_dates(dates: pd.Series, taken: pd.Series) -> pd.Series:
    """Return the date of each row: that of the table, else the EXIF date.

    Args:
        dates: Dates of the table, ISO 8601 text; "" for none.
        taken: EXIF dates likewise.
    """
    return dates.mask(dates == "", taken)


def day_of(dates: pd.Series) -> pd.Series:
    """Return the day of each date as text, `2019-05-03`; "" where the day is not known."""
    return dates.str.slice(0, 10).where(dates.str.len() >= 10, "")


def hours_of(dates: pd.Series) -> pd.Series:
    """Return the hours since 1970 of each date, float64; NaN where the time is not known."""
    times = pd.to_datetime(dates.where(dates.str.contains("T"), None), format="ISO8601", errors="coerce")
    return (times - pd.Timestamp(0)) / pd.Timedelta(hours=1)


def _order_of_numbers(texts: pd.Series) -> tuple[bool, str]:
    """Return whether the month comes first in dates such as 3/5/2019, and a note if the column does not tell."""
    pairs = [(match["sep"], int(match["first"]), int(match["second_number"])) for match in _numbered(texts)]
    slashed = [(first, second) for sep, first, second in pairs if sep != "."]
    if any(second > 12 for _, second in slashed) and not any(first > 12 for first, _ in slashed):
        return True, ""
    doubtful = slashed and all(first <= 12 and second <= 12 for first, second in slashed)
    note = "dates such as 3/5/2019 are read as day, month, year. Write 2019-05-03 if the month comes first"
    return False, note if doubtful and any(first != second for first, second in slashed) else ""


def _numbered(texts: pd.Series) -> Iterator[re.Match[str]]:
    return (match for text in texts.unique() if (match := _YEAR_LAST.fullmatch(text)))


def _iso_date(text: str, *, month_first: bool) -> str | None:
    """Return a date as ISO 8601 text, "" for a missing one, None if it is no date."""
    if text.casefold() in _MISSING or text.startswith(("0000:00:00", "0000-00-00")):
        return ""
    if match := _PARTIAL.fullmatch(text):
        return _partial_date(match)
    match = _YEAR_FIRST.fullmatch(text)
    if match and (match["sep"] or _COMPACT.match(text)):
        return _iso_time(match, int(match["month"]), int(match["day"]))
    if match := _YEAR_LAST.fullmatch(text):
        numbers = int(match["first"]), int(match["second_number"])
        day, month = reversed(numbers) if month_first and match["sep"] != "." else numbers
        return _iso_time(match, month, day)
    match = _DAY_NAMED.fullmatch(text) or _MONTH_NAMED.fullmatch(text)
    name = match["name"][:3].casefold() if match else ""
    return _iso_time(match, _MONTHS.index(name) + 1, int(match["day"])) if match and name in _MONTHS else None


def _partial_date(match: re.Match[str]) -> str | None:
    month = int(match["month"] or 1)
    if not 1 <= month <= 12 or not 1800 <= int(match["year"]) <= 2200:
        return None
    return f"{match['year']}-{month:02}" if match["month"] else match["year"]


def _iso_time(match: re.Match[str], month: int, day: int) -> str | None:
    half, has_time = (match["half"] or "").casefold(), match["hour"] is not None
    hour = int(match["hour"] or 0)
    if half:
        hour = hour % 12 + (12 if half == "pm" else 0)
    try:
        time = datetime(int(match["year"]), month, day, hour, int(match["minute"] or 0), int(match["second"] or 0))
    except ValueError:
        return None
    return time.isoformat() if has_time else time.date().isoformat()
