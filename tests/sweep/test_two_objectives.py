"""Two objectives: settings, Pareto front and choice of the bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import pytest

from whale_ray.errors import SettingsError
from whale_ray.sweep.config.sweep_spec import load_sweep
from whale_ray.sweep.execution.driver import run_sweep
from whale_ray.sweep.report.plots.objective_plots import pareto_front

if TYPE_CHECKING:
    from whale_ray.sweep.config.sweep_spec import Sweep

    WriteSweep = Callable[..., Sweep]

pytestmark = pytest.mark.integration

BOTH = "search.objective=[recall@1, milliseconds_per_image]"


def test_dominated_trials_are_not_on_the_pareto_front() -> None:
    points = [(5.0, 0.9), (1.0, 0.1), (2.0, 0.5), (2.0, 0.6), (4.0, 0.6), (6.0, 0.9), (0.5, 0.1)]
    assert [points[place] for place in pareto_front(points)] == [(0.5, 0.1), (2.0, 0.6), (5.0, 0.9)]
    assert pareto_front([]) == []


@pytest.mark.parametrize(
    ("written", "ranked_by"),
    [
        (BOTH, "recall@1"),
        ("search.objective=[milliseconds_per_image, map@5]", "milliseconds_per_image"),
        ("search.objective=map@5", "map@5"),
    ],
)
def test_a_list_of_two_is_two_objectives_and_the_first_is_preferred(
    written: str, ranked_by: str, write_sweep: WriteSweep, tmp_path: Path
) -> None:
    sweep = write_sweep(written)
    assert sweep.ranked_by == ranked_by
    assert sweep.also == ("milliseconds_per_image" if "," in written else None)
    (tmp_path / "again.yaml").write_text(sweep.to_yaml())
    assert load_sweep(tmp_path / "again.yaml") == sweep


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("search.prefer=map@5",), "`search.prefer` names one of the objectives, but these are recall@1"),
        ((BOTH, "search.scheduler=asha"), "stops trials by one objective, but there are two"),
        (("search.objective=[recall@1, map@5]",), "search.objective"),
    ],
)
def test_invalid_pairs_of_objectives_are_refused(
    options: tuple[str, ...], message: str, write_sweep: WriteSweep
) -> None:
    with pytest.raises(SettingsError, match=message):
        write_sweep(*options)


@pytest.mark.slow
def test_the_preferred_objective_chooses_the_bundle_and_the_report_shows_the_front(
    write_sweep: WriteSweep, tmp_path: Path
) -> None:
    options = (BOTH, "search.strategy=optuna", "search.trials=3", "model.embedding_size=[8, 16]", "train.epochs=1")
    first = run_sweep(write_sweep(*options), runs=tmp_path, in_process=True)
    assert first.exit_code == 0
    assert first.table["recall@1"].is_monotonic_decreasing
    study = optuna.load_study(study_name="little", storage=f"sqlite:///{first.folder / 'study.db'}")
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert len(study.best_trials) >= 1
    page = first.report.read_text()
    assert "the front: no trial is better in both" in page
    speed = run_sweep(
        write_sweep(*options, "search.prefer=milliseconds_per_image"),
        runs=tmp_path,
        address="127.0.0.1:1",
        in_process=True,
    )
    assert speed.table["milliseconds_per_image"].is_monotonic_increasing
    assert speed.bundle is not None
    assert json.loads((speed.bundle / "bundle.json").read_text())["trial"] == speed.table["trial"][0]
