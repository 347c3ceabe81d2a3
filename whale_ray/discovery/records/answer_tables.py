"""Answers that a person wrote into a questions table, or that another discovery exported.

All faults of a file are reported in one message, with their rows, before anything is applied.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from whale_ray.csv_cells import from_cell
from whale_ray.data.delimited_table import read_table
from whale_ray.discovery.records.answers import CANNOT_TELL, DIFFERENT, SAME, VERDICTS, AnswerLog
from whale_ray.errors import DataError
from whale_ray.suggestions import suggest

_NEEDED = ("first", "second", "answer")
_MAX_LISTED = 20
_SPELLINGS = {
    "same": SAME, "s": SAME, "yes": SAME, "different": DIFFERENT, "d": DIFFERENT, "no": DIFFERENT,
    "cannot tell": CANNOT_TELL, "n": CANNOT_TELL, "?": CANNOT_TELL, "unsure": CANNOT_TELL,
}  # fmt: skip
NewAnswer = tuple[str, str, str, str]
"""First photograph, second photograph, verdict and person, as `AnswerLog.add_all` takes them."""


def read_answers(path: Path, images: Collection[str], *, person: str) -> list[NewAnswer]:
    """Return the answers of a file; rows with an empty answer are passed over, repeated answers count once.

    Args:
        path: A table with the columns first, second, answer and optionally person, or an answers.jsonl. Accepted
            answers: same (s, yes), different (d, no), cannot tell (n, ?, unsure).
        images: Names of the photographs.
        person: Person of answers that name none.

    Raises:
        DataError: With every row that cannot be applied.
    """
    rows = _log_rows(path) if path.suffix.casefold() == ".jsonl" else _table_rows(path)
    known, faults = set(images), []
    found: dict[tuple[str, ...], tuple[str, str]] = {}
    answers: list[NewAnswer] = []
    for place, first, second, word, by in rows:
        if not word:
            continue
        verdict = _SPELLINGS.get(" ".join(word.casefold().split()))
        pair = tuple(sorted((first, second)))
        earlier = found.get(pair)
        if reason := _fault(first, second, word, verdict, known, earlier):
            faults.append(f"{place}: {reason}")
        elif earlier is None and verdict is not None:
            found[pair] = (verdict, place)
            answers.append((first, second, verdict, by or person))
    if faults:
        listed = [*faults[:_MAX_LISTED], *([f"and {len(faults) - _MAX_LISTED} more"] * (len(faults) > _MAX_LISTED))]
        raise DataError("\n".join([f"{path} cannot be applied, nothing was saved:", *(f"  {one}" for one in listed)]))
    if not answers:
        raise DataError(
            f"at least one row of {path} must be answered, but none is. "
            f"Write {', '.join(VERDICTS)} into the column answer"
        )
    return answers


def _fault(
    first: str, second: str, word: str, verdict: str | None, known: set[str], earlier: tuple[str, str] | None
) -> str:
    """Return why a row cannot be applied; "" if it can."""
    for name in (first, second):
        if name not in known:
            hint = suggest(name, known) or "Write the name as in photographs.csv"
            return f"a row names two photographs of this discovery, but {name!r} is none. {hint}"
    if first == second:
        return f"a pair has two photographs, but both are {first!r}. Correct one of them"
    if verdict is None:
        return f"an answer is one of {', '.join(VERDICTS)}, but got {word!r}. Correct it, or empty the cell"
    if earlier is not None and earlier[0] != verdict:
        return (
            f"a pair has one answer, but {first} and {second} are {verdict!r} here and {earlier[0]!r} in {earlier[1]}. "
            "Keep one of the rows"
        )
    return ""


def _table_rows(path: Path) -> list[tuple[str, str, str, str, str]]:
    table = read_table(path, columns=_NEEDED, fill_short_rows=True)
    table.require(_NEEDED, remedy="Take the questions.csv of the discovery")
    columns = [table.column(name).map(from_cell) for name in _NEEDED]
    people = table.column("person").map(from_cell) if "person" in table.columns else [""] * len(table.lines)
    return [
        (f"line {line}", first, second, answer, person)
        for line, first, second, answer, person in zip(table.lines.tolist(), *columns, people, strict=True)
    ]


def _log_rows(path: Path) -> list[tuple[str, str, str, str, str]]:
    if not path.is_file():
        raise DataError(f"answers are read from a file, but {path} is none. Name an answers.jsonl or a questions.csv")
    answers = AnswerLog(path).valid
    return [(f"line {one.number}", one.first, one.second, one.verdict, one.person) for one in answers]
