"""Records of synchronized files, and the folders that a mirror reads again: little work after thousands of trials."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from run_store_files import store_on_disk, write_files

from whale_ray.sweep.run_store.mirror import RunMirror
from whale_ray.sweep.run_store.sync_record import SyncedVersions, SyncRecord

TRIAL = {"trials/1/settings.json": "{}", "trials/1/result.json": "{}", "trials/1/checkpoint/weights": "1"}


def versions(number: int) -> SyncedVersions:
    return SyncedVersions(f"remote {number}", f"local {number}")


def test_a_record_that_is_opened_again_has_the_last_versions_and_no_files_that_are_gone(tmp_path: Path) -> None:
    record = SyncRecord(tmp_path / "record")
    for number, key in enumerate(["a", "trials/1/b", "trials/2/c", "trials/1/b"]):
        record.put(key, versions(number))
        record.save()
    record.put("trials/2/c", None)
    record.save()
    again = SyncRecord(tmp_path / "record")
    assert again.every() == {"a": versions(0), "trials/1/b": versions(3)} == record.every()
    assert again.of_group("trials/1") == {"trials/1/b": versions(3)}
    assert again.groups() == ["", "trials/1"]
    again.put("d", versions(4))
    again.save()
    assert len((tmp_path / "record").read_text().splitlines()) == 1
    assert SyncRecord(tmp_path / "record").every() == again.every()


@pytest.mark.parametrize("torn", ['{"trials/1/b": ["remote', '{"trials/1/b": 1}', "[]"])
def test_a_line_that_was_not_completed_costs_the_files_of_that_line_only(tmp_path: Path, torn: str) -> None:
    (tmp_path / "record").write_text('{"a": ["remote 0", "local 0"]}\n' + torn)
    record = SyncRecord(tmp_path / "record")
    assert record.every() == {"a": versions(0)}
    (tmp_path / "record").write_text('{"a": ["remote 0", "local 0"]}')
    record = SyncRecord(tmp_path / "record")
    record.put("c", versions(1))
    with (tmp_path / "record").open("a") as file:
        file.write("\n" + torn)
    record.save()
    assert SyncRecord(tmp_path / "record").every() == {"a": versions(0), "c": versions(1)}


def test_a_record_that_was_deleted_is_written_whole_again(tmp_path: Path) -> None:
    record = SyncRecord(tmp_path / "below" / "record")
    record.put("a", versions(0))
    record.save()
    shutil.rmtree(tmp_path / "below")
    record.put("b", versions(1))
    record.save()
    assert SyncRecord(tmp_path / "below" / "record").every() == {"a": versions(0), "b": versions(1)}


def test_the_record_grows_by_the_same_bytes_for_each_trial_that_is_downloaded(tmp_path: Path) -> None:
    store = store_on_disk(tmp_path)
    trials = [f"{number:03}" for number in range(60)]
    files = {f"trials/{trial}/{name}": "{}" for trial in trials for name in ("result.json", "epochs.csv")}
    RunMirror(store, write_files(tmp_path / "there", files)).push()
    mirror, sizes = RunMirror(store, tmp_path / "here"), list[int]()
    for trial in trials:
        mirror.pull(f"trials/{trial}/")
        mirror.pull(f"trials/{trial}/", weights=False)
        sizes.append((mirror.folder / ".published.json").stat().st_size)
    growth = [after - before for before, after in itertools.pairwise(sizes)]
    assert max(growth) - min(growth) < 10  # digits of times


def old(folder: Path) -> None:
    """Give the folders below a folder a time of change of long ago."""
    for place, _, _ in os.walk(folder, topdown=False):
        os.utime(place, (1.0e9, 1.0e9))


def in_place(trial: Path) -> None:
    (trial / "settings.json").write_text("{}  ")


def replaced(trial: Path) -> None:
    (trial / ".draft").write_text("{}  ")
    (trial / ".draft").replace(trial / "settings.json")


def added(trial: Path) -> None:
    (trial / "checkpoint" / "more").write_text("")


@pytest.mark.parametrize(
    ("change", "seen", "is_deleted"),
    [
        (in_place, [], False),
        (replaced, ["trials/1/settings.json"], False),
        (added, ["trials/1/checkpoint/more"], False),
        (lambda trial: shutil.rmtree(trial / "checkpoint"), ["trials/1/checkpoint/weights"], True),
        (shutil.rmtree, sorted(TRIAL), True),
    ],
    ids=["in place", "replaced", "added", "folder deleted", "trial deleted"],
)
def test_a_finished_trial_is_read_again_when_one_of_its_folders_has_changed(
    tmp_path: Path, change: Callable[[Path], None], seen: list[str], is_deleted: bool
) -> None:
    mirror = RunMirror(store_on_disk(tmp_path), write_files(tmp_path / "here", TRIAL))
    mirror.push()
    old(mirror.folder)
    assert not mirror.changes(thorough=False)
    change(mirror.folder / "trials" / "1")
    for _ in range(2):
        changes = mirror.changes(thorough=False)
        assert sorted(changes.deleted if is_deleted else changes.changed) == seen
    mirror.push()
    assert not mirror.changes()
    assert set(mirror.store.list()) == {key for key in TRIAL if (mirror.folder / key).exists()} | (
        {"trials/1/checkpoint/more"} if change is added else set()
    )


def test_all_folders_are_read_at_the_end_of_a_sweep(tmp_path: Path) -> None:
    mirror = RunMirror(store_on_disk(tmp_path), write_files(tmp_path / "here", TRIAL))
    mirror.push()
    old(mirror.folder)
    assert not mirror.changes(thorough=False)
    in_place(mirror.folder / "trials" / "1")
    assert mirror.changes().changed == ["trials/1/settings.json"]


@pytest.mark.parametrize("case", ["running", "young"])
def test_a_trial_without_a_result_or_with_a_recent_change_is_read_each_time(tmp_path: Path, case: str) -> None:
    mirror = RunMirror(store_on_disk(tmp_path), write_files(tmp_path / "here", TRIAL))
    if case == "running":
        (mirror.folder / "trials/1/result.json").unlink()
    mirror.push()
    if case == "running":
        old(mirror.folder)
    assert not mirror.changes(thorough=False)
    in_place(mirror.folder / "trials" / "1")
    assert mirror.changes(thorough=False).changed == ["trials/1/settings.json"]


def test_a_file_is_not_uploaded_while_it_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_on_disk(tmp_path)
    RunMirror(store, write_files(tmp_path / "there", TRIAL)).push()
    mirror, found = RunMirror(store, tmp_path / "here"), list[bool]()
    download = store.download

    def watched(key: str, path: Path) -> None:
        download(key, path)
        found.append(bool(mirror.changes()))  # the publisher's thread, before the download is recorded

    monkeypatch.setattr(store, "download", watched)
    mirror.pull()
    assert found == [False] * len(TRIAL)


def test_a_file_that_was_downloaded_after_it_was_found_changed_is_not_uploaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_on_disk(tmp_path)
    RunMirror(store, write_files(tmp_path / "there", TRIAL)).push()
    mirror = RunMirror(store, write_files(tmp_path / "here", TRIAL))
    changes = mirror.changes()
    mirror.pull()
    uploaded = list[str]()
    monkeypatch.setattr(store, "upload", lambda path, key: uploaded.append(key))
    mirror.publish(changes)
    assert (sorted(changes.changed), uploaded) == (sorted(TRIAL), [])
