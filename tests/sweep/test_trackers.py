"""Experiment trackers: the runs of W&B."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from whale_ray.sweep.run_folder.lock import claimed
from whale_ray.sweep.run_folder.sweep_identity import sweep_identity
from whale_ray.sweep.trials.trackers.registry import open_trackers
from whale_ray.sweep.trials.trackers.tracker import TrackedTrial, Tracking

pytestmark = pytest.mark.integration


def test_two_fresh_runs_of_a_sweep_are_two_wandb_runs(tmp_path: Path) -> None:
    names = []
    for _ in range(2):
        with claimed(tmp_path / "little", fresh=True) as folder:
            (folder / "sweep.yaml").write_text("name: little")
            prefix = sweep_identity(folder, "little").wandb_prefix
            trial = TrackedTrial(trial="4e014196", settings={"seed": 0}, folder=folder / "trials" / "4e014196")
            trial.folder.mkdir()
            with open_trackers(Tracking(sweep="little", prefix=prefix, wandb="offline"), trial) as tracker:
                tracker.log({"epoch": 1, "loss": 0.5}, epoch=1)
            (log,) = trial.folder.glob("wandb/offline-run-*/*.wandb")
            assert log.name == f"run-{prefix}-4e014196.wandb"
            names.append(log.name)
    assert names[0] != names[1]


@pytest.mark.parametrize("on_gpu", [False, True])
def test_wandb_polls_the_machine_only_for_a_gpu(on_gpu: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    given: dict[str, Any] = {}

    def init(**options: Any) -> Any:
        given.update(options)
        (tmp_path / "wandb").mkdir(exist_ok=True)
        return type("Run", (), {"finish": lambda self: None})()

    monkeypatch.setattr(wandb, "init", init)
    tracking = Tracking(sweep="little", prefix="little-ab12cd34", wandb="offline")
    trial = TrackedTrial(trial="4e014196", settings={}, folder=tmp_path, on_gpu=on_gpu)
    with open_trackers(tracking, trial):
        pass
    assert (given["id"], given["group"]) == ("little-ab12cd34-4e014196", "little-ab12cd34")
    assert given["settings"].x_disable_stats is not on_gpu
