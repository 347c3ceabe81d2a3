"""Screening designs: main effects, confounding, and growth to a fold-over."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from whale_ray.errors import InputError, SettingsError
from whale_ray.sweep.config.screening_design import (
    MOST_RUNS,
    confounding,
    describe_aliases,
    fold_over,
    screen,
    screens_of,
    smallest_screen,
)
from whale_ray.sweep.config.sweep_spec import Sweep, load_sweep
from whale_ray.sweep.planning.dry_run import forecast, planned_trials, trials_left
from whale_ray.sweep.planning.trial_points import listed_points
from whale_ray.sweep.run_folder.records import read_records

pytestmark = pytest.mark.integration

AXES = """
name: screened
data: {root: ROOT, image_size: 32x64, val_fraction: 0.4}
model: {encoder: tiny, embedding_size: [8, 16], weights: random, pool: [avg, gem]}
loss: {name: arcface, scale: [16, 64]}
train: {epochs: 1, batch_size: 16}
search: {strategy: screen}
"""


def sweep_of(tmp_path: Path, *options: str, text: str = AXES) -> Sweep:
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    return load_sweep(path, options)


@pytest.mark.parametrize("axes", [2, 3, 4, 5, 7, 8, 11, 12, 15, 16, 23])
def test_every_axis_is_balanced_and_no_two_are_confounded(axes: int) -> None:
    sizes = screens_of(axes)
    assert sizes[0] == smallest_screen(axes)
    for runs in [*sizes[:4], *sizes[-1:]]:
        signs = 2 * screen(axes, runs) - 1
        assert np.array_equal(signs.T @ signs, runs * np.eye(axes))
        assert not signs.sum(axis=0).any()
        assert len({tuple(row) for row in signs}) == runs
        assert (signs[0] == -1).all()


@pytest.mark.parametrize(("axes", "runs"), [(2, 4), (3, 4), (4, 8), (7, 8), (8, 12), (11, 12), (15, 16), (19, 20)])
def test_the_smallest_screen_is_that_of_plackett_and_burman(axes: int, runs: int) -> None:
    assert smallest_screen(axes) == runs


@pytest.mark.parametrize("axes", [3, 5, 7, 11, 15, 19])
def test_a_fold_over_keeps_the_trials_and_frees_main_effects_of_interactions(axes: int) -> None:
    runs = smallest_screen(axes)
    assert confounding(screen(axes, runs)).resolution == 3
    doubled = screen(axes, 2 * runs)
    assert np.array_equal(doubled[:runs], screen(axes, runs))
    found = fold_over(axes, runs)
    assert found is not None
    assert found.resolution in (4, 0)
    assert not any(found.aliases) or found.resolution == 0


def test_all_combinations_are_a_full_factorial() -> None:
    assert len(np.unique(screen(4, 16), axis=0)) == 16
    assert confounding(screen(4, 16)).resolution == 0


def test_confounding_follows_from_the_design_columns() -> None:
    design = screen(7, 8)
    signs = 2 * design - 1
    for axis, aliases in enumerate(confounding(design).aliases):
        equal = {
            (one, other)
            for one, other in combinations(range(7), 2)
            if axis not in (one, other) and abs((signs[:, one] * signs[:, other]) @ signs[:, axis]) == 8
        }
        assert {(one, other) for one, other, _ in aliases} == equal
        assert len(equal) == 3
    assert "1/3" not in describe_aliases(confounding(screen(11, 12)).aliases[0], list("abcdefghijk"))
    assert describe_aliases(confounding(screen(11, 12)).aliases[0], list("abcdefghijk")).startswith(
        "up to 0.33 of each of 45"
    )


@pytest.mark.parametrize(("axes", "runs"), [(7, 7), (7, 4), (7, 10), (3, 12), (4, 12), (5, MOST_RUNS * 2)])
def test_a_size_without_a_design_is_refused_with_those_that_have_one(axes: int, runs: int) -> None:
    with pytest.raises(InputError, match=r"multiple of 4 above \d+ trials, .* but got \d+\. Take \d+"):
        screen(axes, runs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["model.embedding_size=[8, 16, 32]"], "exactly two values, but `model.embedding_size` has 3 values"),
        (["train.learning_rate={low: 0.1, high: 0.2}"], "`train.learning_rate` has a range"),
        (["loss=[{name: arcface, scale: [16, 64]}, {name: supcon}]"], "`loss.arcface.scale` exists only where"),
        (["search.scheduler=asha"], "compares trials that have all ended"),
        (["search.trials=6"], "but got 6. Take 4 or 8"),
        (["model.pool=avg", "loss.scale=16"], "needs two axes at least, but got 1"),
    ],
)
def test_axes_that_cannot_be_screened_are_refused(tmp_path: Path, options: list[str], message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        sweep_of(tmp_path, *options)
    assert message in str(refused.value)


def test_the_default_number_of_trials_is_the_smallest_and_recorded(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path)
    assert planned_trials(sweep) == 4
    assert sweep_of(tmp_path, text=sweep.to_yaml()) == sweep


def test_the_first_trial_has_the_first_value_of_each_axis(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path)
    points = list(listed_points(sweep) or ())
    assert len(points) == 4
    assert points[0] == {"model.embedding_size": 8, "model.pool": "avg", "loss.scale": 16.0}
    assert all(sweep.settings(point) for point in points)


def test_a_screen_lists_confounded_effects_before_the_start(tmp_path: Path) -> None:
    plan = "\n".join(forecast(sweep_of(tmp_path), tmp_path / "runs"))
    assert "screen search, 4 trials" in plan
    assert "resolution III" in plan
    assert "model.embedding_size is mixed with model.pool x loss.scale" in plan
    assert "search.trials=8 keeps these trials and adds as many" in plan
    whole = "\n".join(forecast(sweep_of(tmp_path, "search.trials=8"), tmp_path / "runs"))
    assert "every combination" in whole
    assert "mixed with" not in whole


@pytest.mark.slow
def test_a_screen_runs_resumes_and_grows_to_its_fold_over(photographs: Path, tmp_path: Path) -> None:
    from whale_ray.sweep.execution.driver import run_sweep

    text = AXES.replace("ROOT", str(photographs))
    first = run_sweep(sweep_of(tmp_path, text=text), runs=tmp_path / "runs", in_process=True)
    trained = {record.trial for record in read_records(first.folder) if record.kind == "trial"}
    assert len(trained) == 4
    grown = sweep_of(tmp_path, "search.trials=8", text=text)
    assert trials_left(grown, read_records(first.folder)) == 4
    second = run_sweep(grown, runs=tmp_path / "runs", in_process=True)
    records = [record for record in read_records(second.folder) if record.kind == "trial"]
    assert len(records) == 8
    assert trained < {record.trial for record in records}
    table = pd.read_csv(second.folder / "importance.csv").set_index("axis")
    scores = pd.DataFrame([{**record.point, "score": record.result["recall@1"]} for record in records])
    for axis in ("model.embedding_size", "model.pool", "loss.scale"):
        means = scores.groupby(axis)["score"].mean()
        assert table.loc[axis, "how"] == "main effect"
        assert table.loc[axis, "value"] == pytest.approx(means.iloc[1] - means.iloc[0])
