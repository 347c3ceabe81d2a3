"""Results that are computed once per version of a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from whale_ray.atomic_files import write_atomically
from whale_ray.sweep.file_cache import FileCache
from whale_ray.sweep.run_folder.record_index import RecordIndex
from whale_ray.sweep.run_folder.records import read_records, write_record, write_result


@pytest.fixture
def read() -> list[str]:
    return []


@pytest.fixture
def cache(read: list[str]) -> FileCache[list[str]]:
    def words(path: Path, separator: str = " ") -> list[str]:
        read.append(path.name)
        return path.read_text().split(separator)

    return FileCache(words, weigh=len, most=4)


def test_a_file_is_read_again_once_it_has_changed(tmp_path: Path, cache: FileCache[list[str]], read: list[str]) -> None:
    path = tmp_path / "a"
    for text in ("x y", "y z", "z w"):  # of the same size
        write_atomically(path, text)
        assert cache(path) == text.split()
        assert cache(path) is cache(path)
    assert read == ["a"] * 3


def test_arguments_have_results_of_their_own(tmp_path: Path, cache: FileCache[list[str]]) -> None:
    write_atomically(tmp_path / "a", "x y,z")
    assert cache(tmp_path / "a") == ["x", "y,z"]
    assert cache(tmp_path / "a", ",") == ["x y", "z"]


def test_results_beyond_the_limit_are_computed_each_time(tmp_path: Path, cache: FileCache[list[str]]) -> None:
    for name in ("a", "b"):
        write_atomically(tmp_path / name, "x y z")
    first, second = cache(tmp_path / "a"), cache(tmp_path / "b")
    assert cache(tmp_path / "a") is first
    assert cache(tmp_path / "b") == second
    assert cache(tmp_path / "b") is not second
    write_atomically(tmp_path / "a", "x")
    cache(tmp_path / "a")
    assert cache(tmp_path / "b") is cache(tmp_path / "b"), "a smaller version gives its room back"


def test_a_missing_file_raises_although_its_result_is_kept(tmp_path: Path, cache: FileCache[list[str]]) -> None:
    write_atomically(tmp_path / "a", "x")
    cache(tmp_path / "a")
    (tmp_path / "a").unlink()
    with pytest.raises(FileNotFoundError):
        cache(tmp_path / "a")


def test_the_driver_and_its_report_have_the_records_of_a_trial_once_in_memory(tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder = tmp_path / "trials" / name
        write_record(folder, kind="trial", point={}, settings={"seed": 1}, data_fingerprint="")
        write_result(folder, {"status": "finished", "recall@1": 0.5})
    driver, report = RecordIndex(tmp_path).records(), read_records(tmp_path)
    for ours, theirs in zip(driver, report, strict=True):
        assert ours.result is theirs.result
        assert ours.settings is theirs.settings
    names = [{id(name) for name in record.result} for record in driver]
    assert names[0] == names[1]
    write_result(tmp_path / "trials" / "a", {"status": "failed"})
    assert [record.status for record in read_records(tmp_path)] == ["failed", "finished"]
    (tmp_path / "trials" / "b" / "result.json").unlink()
    assert [record.status for record in read_records(tmp_path)] == ["failed", "running"]
    assert json.loads((tmp_path / "trials" / "a" / "result.json").read_text()) == {"status": "failed"}
