"""Append-only log of answers about pairs of photographs.

Each record is one JSON line and is on the disk before the call returns. Taking an answer back appends a record that
names it; no line is ever changed or removed.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from whale_ray.errors import DataError

SAME, DIFFERENT, CANNOT_TELL = "same", "different", "cannot tell"
VERDICTS = (SAME, DIFFERENT, CANNOT_TELL)
_TEXTS = ("time", "person", "first", "second")


@dataclass(frozen=True)
class Answer:
    """A person's answer about one pair of photographs.

    Attributes:
        number: Number of the record in the log, from 1.
        time: Time of the answer, ISO 8601, UTC.
        person: Name of the person.
        first: Name of one photograph.
        second: Name of the other photograph.
        verdict: One of `VERDICTS`.
    """

    number: int
    time: str
    person: str
    first: str
    second: str
    verdict: str

    @property
    def pair(self) -> tuple[str, str]:
        """Both names in alphabetical order."""
        return (self.first, self.second) if self.first <= self.second else (self.second, self.first)


class AnswerLog:
    """The answers in a file of JSON lines; safe for several threads of one process.

    Args:
        path: The file; it is created by the first record.

    Raises:
        DataError: If a line of the file is no record.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._answers: dict[int, Answer] = {}
        self._undone: set[int] = set()
        self._count = 0
        for answer, undoes in _read_records(path):
            self._keep(answer, undoes)

    @property
    def valid(self) -> list[Answer]:
        """The answers that were not taken back, in the order of the log."""
        with self._lock:
            return [answer for number, answer in self._answers.items() if number not in self._undone]

    def add(self, first: str, second: str, verdict: str, *, person: str) -> Answer:
        """Append an answer and return it once it is on the disk.

        Args:
            first: Name of one photograph.
            second: Name of the other photograph.
            verdict: One of `VERDICTS`.
            person: Name of the person.
        """
        return self.add_all([(first, second, verdict, person)])[0]

    def add_all(self, rows: Iterable[tuple[str, str, str, str]]) -> list[Answer]:
        """Append several answers in one step and return them once they are on the disk.

        Args:
            rows: First name, second name, verdict and person of each answer.

        Raises:
            ValueError: If a verdict is unknown.
        """
        with self._lock:
            answers = [
                Answer(self._count + place, _now(), person, first, second, verdict)
                for place, (first, second, verdict, person) in enumerate(rows, start=1)
            ]
            if wrong := [answer.verdict for answer in answers if answer.verdict not in VERDICTS]:
                raise ValueError(f"an answer is one of {', '.join(VERDICTS)}, but got {wrong[0]!r}")
            self._append([_answer_record(answer) for answer in answers])
            for answer in answers:
                self._keep(answer, None)
            return answers

    def undo(self, number: int, *, person: str) -> Answer:
        """Take an answer back by appending a record that names it, and return the answer.

        Args:
            number: Number of the answer.
            person: Name of the person who takes it back.

        Raises:
            KeyError: If no valid answer has this number.
        """
        with self._lock:
            if number not in self._answers or number in self._undone:
                raise KeyError(number)
            record = {"number": self._count + 1, "time": _now(), "person": person, "undoes": number}
            self._append([record])
            self._keep(None, number)
            return self._answers[number]

    def _keep(self, answer: Answer | None, undoes: int | None) -> None:
        self._count += 1
        if answer is not None:
            self._answers[answer.number] = answer
        if undoes is not None:
            self._undone.add(undoes)

    def _append(self, records: list[dict[str, Any]]) -> None:
        _remove_torn_line(self._path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as stream:
            stream.write("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode())
            stream.flush()
            os.fsync(stream.fileno())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _answer_record(answer: Answer) -> dict[str, Any]:
    texts = {name: getattr(answer, name) for name in _TEXTS}
    return {"number": answer.number, **texts, "answer": answer.verdict}


def _remove_torn_line(path: Path) -> None:
    """Remove the start of a record at the end of the file: its writer was killed before it acknowledged the answer."""
    if not path.exists():
        return
    with path.open("r+b") as stream:
        data = stream.read()
        if data and not data.endswith(b"\n"):
            stream.truncate(data.rfind(b"\n") + 1)


def _read_records(path: Path) -> list[tuple[Answer | None, int | None]]:
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]  # the last part is empty, or a record that was not finished
    records = []
    for line, text in enumerate(lines, start=1):
        try:
            records.append(_parse_record(json.loads(text), line))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"every line of {path} must be an answer or an undo, but line {line} is not ({error}). "
                "Restore the file from a copy, or remove the damaged line"
            ) from None
    return records


def _parse_record(record: dict[str, Any], line: int) -> tuple[Answer | None, int | None]:
    if record["number"] != line:
        raise ValueError(f"its number must be {line}")
    if "undoes" in record:
        if not isinstance(record["undoes"], int) or not 1 <= record["undoes"] < line:
            raise ValueError("it takes back no earlier record")
        return None, record["undoes"]
    texts = {name: record[name] for name in _TEXTS}
    if record["answer"] not in VERDICTS or not all(isinstance(text, str) for text in texts.values()):
        raise ValueError(f"its answer must be one of {', '.join(VERDICTS)}")
    return Answer(number=line, verdict=record["answer"], **texts), None
