"""Resuming with more epochs: the shorter trial from which a longer one continues."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from whale_ray.sweep.config.sweep_spec import load_sweep
from whale_ray.sweep.planning.resume import find_shorter_trial
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
