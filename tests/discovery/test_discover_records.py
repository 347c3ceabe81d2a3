"""Files of a discovery: the log of answers, answers from a table, names of clusters, the folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from whale_ray.discovery.records.answer_tables import read_answers
from whale_ray.discovery.records.answers import AnswerLog
from whale_ray.discovery.records.cluster_names import name_clusters
from whale_ray.discovery.records.discovery_folder import DiscoveryFolder
from whale_ray.errors import DataError

IMAGES = ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
HEADER = "first,second,probability,gain,answer"

# The log


def test_answers_are_on_the_disk_at_once_and_an_undo_is_appended(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path / "answers.jsonl")
    log.add("a.jpg", "b.jpg", "same", person="Ana")
    log.add("b.jpg", "c.jpg", "different", person="Ben")
    assert log.undo(1, person="Ben").first == "a.jpg"
    records = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [(one["number"], one["person"], one.get("answer"), one.get("undoes")) for one in records] == [
        (1, "Ana", "same", None),
        (2, "Ben", "different", None),
        (3, "Ben", None, 1),
    ]
    assert all(one["time"].endswith("+00:00") for one in records)
    assert [one.verdict for one in AnswerLog(tmp_path / "answers.jsonl").valid] == ["different"]


@pytest.mark.parametrize("number", [0, 2, 3, 9])
def test_only_a_valid_answer_can_be_taken_back(tmp_path: Path, number: int) -> None:
    log = AnswerLog(tmp_path / "answers.jsonl")
    log.add("a.jpg", "b.jpg", "same", person="")
    log.add("a.jpg", "c.jpg", "same", person="")
    log.undo(2, person="")
    with pytest.raises(KeyError):
        log.undo(number, person="")


def test_an_unfinished_last_line_does_not_spoil_the_log(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    AnswerLog(path).add("a.jpg", "b.jpg", "same", person="Ana")
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])
    log = AnswerLog(path)
    log.add("c.jpg", "d.jpg", "cannot tell", person="Ana")
    assert [one.verdict for one in AnswerLog(path).valid] == ["same", "cannot tell"]
    assert path.read_bytes().startswith(whole)


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[]",
        '{"number": 7, "undoes": 1}',
        '{"number": 2, "undoes": 2}',
        '{"number": 2, "time": "", "person": "", "first": "a", "second": "b", "answer": "maybe"}',
        '{"number": 2, "time": "", "person": "", "first": "a", "second": 3, "answer": "same"}',
        '{"number": 2, "time": "", "person": "", "first": "a", "answer": "same"}',
    ],
)
def test_a_damaged_line_of_the_log_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "answers.jsonl"
    AnswerLog(path).add("a.jpg", "b.jpg", "same", person="Ana")
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError, match="line 2 is not"):
        AnswerLog(path)


# Answers from a file


def table(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "questions.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_answers_of_a_table_are_read_in_many_spellings(tmp_path: Path) -> None:
    path = table(tmp_path, "a.jpg,b.jpg,0.5,1,Same", "a.jpg,c.jpg,0.5,1,D", "b.jpg,c.jpg,0.5,1,", "a.jpg,d.jpg,1,1,?")
    assert read_answers(path, IMAGES, person="Ana") == [
        ("a.jpg", "b.jpg", "same", "Ana"),
        ("a.jpg", "c.jpg", "different", "Ana"),
        ("a.jpg", "d.jpg", "cannot tell", "Ana"),
    ]


def test_a_table_with_semicolons_a_person_and_protected_names_is_read(tmp_path: Path) -> None:
    path = table(tmp_path, "'=a.jpg;b.jpg;yes;Ben", header="first;second;answer;person")
    assert read_answers(path, ["=a.jpg", "b.jpg"], person="Ana") == [("=a.jpg", "b.jpg", "same", "Ben")]


def test_the_log_of_another_discovery_is_read_without_what_was_taken_back(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path / "exported.jsonl")
    log.add("a.jpg", "b.jpg", "same", person="Ben")
    log.add("a.jpg", "c.jpg", "same", person="Ben")
    log.undo(1, person="Ben")
    assert read_answers(tmp_path / "exported.jsonl", IMAGES, person="") == [("a.jpg", "c.jpg", "same", "Ben")]


def test_a_repeated_answer_counts_once(tmp_path: Path) -> None:
    path = table(tmp_path, "a.jpg,b.jpg,0.5,1,same", "b.jpg,a.jpg,0.5,1,same")
    assert len(read_answers(path, IMAGES, person="")) == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.jpg,x.png,0.5,1,same", r"line 3: .*'x.png' is none"),
        ("a.jpg,b.jpgg,0.5,1,same", r"line 3: .*'b.jpgg' is none. Did you mean `b.jpg`"),
        ("c.jpg,c.jpg,0.5,1,same", r"line 3: .*both are 'c.jpg'"),
        ("c.jpg,d.jpg,0.5,1,perhaps", r"line 3: .*got 'perhaps'"),
        ("b.jpg,a.jpg,0.5,1,different", r"line 3: .*'different' here and 'same' in line 2"),
        (",,,,same", r"line 3: .*'' is none"),
    ],
)
def test_a_row_that_makes_no_sense_is_named(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_answers(table(tmp_path, "a.jpg,b.jpg,0.5,1,same", row), IMAGES, person="")


def test_every_wrong_row_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2: [\s\S]*line 3: [\s\S]*line 4: "):
        read_answers(table(tmp_path, "x,b.jpg,1,1,s", "a.jpg,a.jpg,1,1,s", "a.jpg,b.jpg,1,1,maybe"), IMAGES, person="")


@pytest.mark.parametrize("missing", ["first", "second", "answer"])
def test_a_missing_column_is_named(tmp_path: Path, missing: str) -> None:
    header = ",".join(name for name in ("first", "second", "answer") if name != missing)
    with pytest.raises(DataError, match=f"must have the column {missing}"):
        read_answers(table(tmp_path, "a.jpg,b.jpg", header=header), IMAGES, person="")


def test_a_table_without_answers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one row"):
        read_answers(table(tmp_path, "a.jpg,b.jpg,0.5,1,"), IMAGES, person="")


@pytest.mark.parametrize("name", ["none.csv", "none.jsonl"])
def test_a_file_of_answers_that_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="file"):
        read_answers(tmp_path / name, IMAGES, person="")


# Names of clusters


def named(labels: list[int], *, earlier: dict[str, list[str]] | None = None, individuals: str = "") -> list[str]:
    """The name of each photograph's cluster; `individuals` has a letter for each named photograph, else a space."""
    given = [letter.strip() for letter in individuals.ljust(len(labels))]
    images = [f"{row}" for row in range(len(labels))]
    names, _ = name_clusters(np.array(labels), images, given, earlier=earlier or {})
    return [names.get(label, "") for label in labels]


def test_new_clusters_are_numbered_and_single_photographs_have_no_name() -> None:
    assert named([0, 1, 1, 2, 2, 2]) == ["", *["discovered_0002"] * 2, *["discovered_0001"] * 3]


def test_a_cluster_with_a_named_photograph_has_its_name() -> None:
    assert named([0, 0, 1, 1, 2], individuals="A   B") == ["A", "A", "discovered_0001", "discovered_0001", "B"]


def test_names_stay_with_most_of_their_photographs() -> None:
    earlier = {"discovered_0001": ["0", "1", "2"], "discovered_0002": ["3", "4"]}
    assert named([5, 5, 9, 7, 7, 5], earlier=earlier) == [
        "discovered_0001", "discovered_0001", "", "discovered_0002", "discovered_0002", "discovered_0001",
    ]  # fmt: skip


def test_numbers_are_never_used_again_and_a_name_returns_with_its_photographs() -> None:
    images = [f"{row}" for row in range(5)]
    nothing = [""] * 5
    apart, kept = name_clusters(np.array([0, 0, 0, 1, 1]), images, nothing, earlier={})
    joined, kept = name_clusters(np.array([0, 0, 0, 0, 0]), images, nothing, earlier=kept)
    assert joined == {0: "discovered_0001"}
    assert set(kept) == {"discovered_0001", "discovered_0002"}
    again, _ = name_clusters(np.array([0, 0, 0, 1, 1]), images, nothing, earlier=kept)
    assert again == apart


def test_a_number_that_the_labels_use_is_passed_over() -> None:
    images = ["0", "1", "2"]
    names, _ = name_clusters(np.array([0, 0, 1]), images, ["", "", "discovered_0001"], earlier={})
    assert names == {0: "discovered_0002", 1: "discovered_0001"}


# The folder


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("")
    with pytest.raises(DataError, match="holds other files"), DiscoveryFolder(tmp_path).opened(tmp_path):
        pass


def test_a_folder_belongs_to_one_folder_of_photographs(tmp_path: Path) -> None:
    folder = DiscoveryFolder(tmp_path / "discover")
    with folder.opened(tmp_path / "north"):
        pass
    with pytest.raises(DataError, match="belongs to"), folder.opened(tmp_path / "south"):
        pass


def test_a_folder_is_used_by_one_process_at_a_time(tmp_path: Path) -> None:
    folder = DiscoveryFolder(tmp_path / "discover")
    with folder.opened(tmp_path), pytest.raises(DataError, match="another one uses"), folder.opened(tmp_path):
        pass


@pytest.mark.parametrize(("content", "message"), [("{", "must be JSON"), ('{"format": 9}', "format 9"), ("[]", "None")])
def test_a_damaged_or_newer_state_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "discovery.json").write_text(content)
    with pytest.raises(DataError, match=message), DiscoveryFolder(tmp_path).opened(tmp_path):
        pass
