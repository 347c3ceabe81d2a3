"""Resuming: the shorter trial from which a longer one continues, and the grouping that a run folder keeps."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from whale_ray.sweep.config.sweep_spec import Sweep, load_sweep
from whale_ray.sweep.config.trial_identity import trial_identity
from whale_ray.sweep.planning.resume import find_shorter_trial, keep_earlier_grouping, notes_on_grouping, scoring_basis
from whale_ray.sweep.run_folder.records import Record


def settings_of(tmp_path: Path, **train: Any) -> dict[str, Any]:
    file = tmp_path / "sweep.yaml"
    file.write_text("name: longer\nmodel: {encoder: tiny}\nloss: {name: supcon}\ntrain: {schedule: constant}\n")
    return load_sweep(file, [f"train.{key}={value}" for key, value in train.items()]).settings({})


def ended(tmp_path: Path, settings: dict[str, Any]) -> Record:
    folder = tmp_path / "ended"
    (folder / "checkpoint").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoint" / "state.pt").touch()
    return Record("ended", folder, "trial", {}, settings, "", {"status": "finished"})


def test_a_trial_written_before_a_setting_existed_can_be_continued(tmp_path: Path) -> None:
    old = settings_of(tmp_path, epochs=3)
    for key in ("ema", "memory", "head_epochs", "layer_decay", "negatives_share"):
        del old["train"][key]
    record = ended(tmp_path, old)
    assert find_shorter_trial(settings_of(tmp_path, epochs=5), [record]) is record
    assert find_shorter_trial(settings_of(tmp_path, epochs=5, memory=64), [record]) is None


def test_a_run_folder_keeps_the_grouping_that_it_was_split_by(
    write_sweep: Callable[..., Sweep], tmp_path: Path
) -> None:
    sweep = write_sweep()
    assert (sweep.fixed["data.group_by"], sweep.fixed["data.group_linkage"]) == ("auto", "average")
    assert keep_earlier_grouping(sweep, tmp_path / "none") == sweep
    path = tmp_path / "sweep.yaml"
    path.write_text("".join(line for line in sweep.to_yaml().splitlines(keepends=True) if "group_by" not in line))
    assert keep_earlier_grouping(sweep, tmp_path).fixed["data.group_by"] == "twins"
    path.write_text(sweep.to_yaml())
    assert keep_earlier_grouping(write_sweep("data.group_by=twins"), tmp_path).fixed["data.group_by"] == "auto"
    path.write_text(re.sub(r"group_linkage: \w+,? *", "", sweep.to_yaml()))
    kept = keep_earlier_grouping(sweep, tmp_path)
    assert kept.fixed["data.group_linkage"] == "single"
    assert list(notes_on_grouping(sweep, kept)) == [
        "data.group_linkage stays single, by which this run folder was split. For average, use --fresh"
    ]
    twins = write_sweep("data.group_by=twins", "data.group_linkage=single")
    assert not list(notes_on_grouping(write_sweep("data.group_by=twins"), twins))


def test_trials_of_another_linkage_count_as_another_split_where_encounters_are_found(
    write_sweep: Callable[..., Sweep],
) -> None:
    def basis(*options: str) -> dict[str, Any]:
        return scoring_basis(write_sweep(*options).settings({"loss.name": "arcface"}), "f")

    assert basis() != basis("data.group_linkage=single")
    assert basis("data.group_by=twins") == basis("data.group_by=twins", "data.group_linkage=single")
    old = write_sweep("data.group_linkage=single").settings({"loss.name": "arcface"})
    del old["data"]["group_linkage"]
    assert scoring_basis(old, "f") == basis("data.group_linkage=single")


def test_a_trial_without_a_grouping_has_the_identity_of_twins(write_sweep: Callable[..., Sweep]) -> None:
    identities = [
        trial_identity({**settings, "data": data}, data_fingerprint="f")
        for settings in [write_sweep().settings({"loss.name": "arcface"})]
        for data in ({**settings["data"], "group_by": "twins"}, settings["data"])
    ]
    old = write_sweep().settings({"loss.name": "arcface"})
    del old["data"]["group_by"]
    assert identities[0] == trial_identity(old, data_fingerprint="f") != identities[1]
