"""Optuna study: grid, random and TPE searches over conditional spaces, reopened and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from whale_ray.sweep.config.sweep_spec import Sweep, load_sweep
from whale_ray.sweep.planning.optuna_study import Study
from whale_ray.sweep.planning.trial_points import Point, exists, grid_points

pytestmark = pytest.mark.integration

SPACE = """
name: space
model: {encoder: tiny, embedding_size: [8, 16, 32], weights: random}
loss:
  - name: arcface
    scale: [16, 64]
    margin_degrees: {low: 10, high: 40}
  - {name: proxy_anchor, margin: {low: 0.1, high: 0.3, step: 0.1}}
  - {name: supcon}
train: {learning_rate: {low: 1.0e-5, high: 1.0e-1, log: true}, batch_size: {low: 8, high: 32, step: 8}}
search: {strategy: STRATEGY, trials: 10, seed: SEED}
"""
GRID = """
name: grid
model: {encoder: tiny, embedding_size: [8, 16], weights: random}
loss: {name: [arcface, supcon]}
"""


def sweep_of(tmp_path: Path, text: str, *options: str) -> Sweep:
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    return load_sweep(path, options)


def searching(tmp_path: Path, strategy: str, seed: int = 0) -> Sweep:
    return sweep_of(tmp_path, SPACE.replace("STRATEGY", strategy).replace("SEED", str(seed)))


def open_study(sweep: Sweep, folder: Path, *begun: str, known: Any = lambda point: False) -> Study:
    return Study(sweep, folder / "study.db", begun=begun, known=known)


def drawn(study: Study, count: int, score: Any = lambda point: 0.5) -> list[Point]:
    points = []
    for place in range(count):
        proposal = study.ask()
        assert proposal
        trial = f"{id(study)}-{place}"
        study.begin(proposal.number, trial)
        study.tell(trial, score(proposal.point))
        points.append(proposal.point)
    return points


def trials_of(folder: Path, name: str) -> list[optuna.trial.FrozenTrial]:
    """Open the study file as another program would."""
    return optuna.load_study(study_name=name, storage=f"sqlite:///{folder / 'study.db'}").get_trials()


@pytest.mark.parametrize("strategy", ["random", "optuna"])
def test_every_point_drawn_is_one_of_the_space(tmp_path: Path, strategy: str) -> None:
    sweep = searching(tmp_path, strategy)
    points = drawn(open_study(sweep, tmp_path), 20, lambda point: point["train.learning_rate"])
    assert {point["loss.name"] for point in points} == {"arcface", "proxy_anchor", "supcon"}
    for point in points:
        assert set(point) == {axis.name for axis in sweep.axes if exists(axis, point)}
        assert 1e-5 <= point["train.learning_rate"] <= 1e-1
        assert point["train.batch_size"] in (8, 16, 24, 32)
        settings = sweep.settings(point)
        if point["loss.name"] == "arcface":
            assert 10 <= settings["loss"]["margin_degrees"] <= 40
            assert settings["loss"]["scale"] in (16, 64)
        if point["loss.name"] == "proxy_anchor":
            assert settings["loss"]["margin"] in (0.1, 0.2, 0.3)


@pytest.mark.parametrize("strategy", ["random", "optuna"])
def test_the_same_seed_draws_the_same_points_and_another_others(tmp_path: Path, strategy: str) -> None:
    found = []
    for place, seed in enumerate([1, 1, 2]):
        (tmp_path / str(place)).mkdir()
        found.append(drawn(open_study(searching(tmp_path, strategy, seed), tmp_path / str(place)), 5))
    assert found[0] == found[1] != found[2]


def test_tpe_proposes_points_with_large_scores(tmp_path: Path) -> None:
    points = drawn(
        open_study(searching(tmp_path, "optuna"), tmp_path), 30, lambda point: float(point["loss.name"] == "supcon")
    )
    late = [point["loss.name"] for point in points[15:]]
    assert late.count("supcon") > len(late) / 2


def test_a_grid_proposes_every_cell_once(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, GRID)
    study = open_study(sweep, tmp_path)
    assert drawn(study, 4) == list(grid_points(sweep.axes))
    assert study.ask() is None
    assert study.ask() is None


def test_a_grid_skips_cells_that_have_a_trial(tmp_path: Path) -> None:
    study = open_study(sweep_of(tmp_path, GRID), tmp_path, known=lambda point: point["loss.name"] == "arcface")
    assert [point["loss.name"] for point in drawn(study, 2)] == ["supcon", "supcon"]
    assert study.ask() is None


def test_outcomes_are_stored_in_the_file(tmp_path: Path) -> None:
    study = open_study(searching(tmp_path, "optuna"), tmp_path)
    for trial in ("good", "pruned", "failed", "running"):
        proposal = study.ask()
        assert proposal
        study.begin(proposal.number, trial)
    study.tell("good", 0.75, notes={"vote": "softmax", "neighbours": 5})
    study.tell("pruned", 0.25, pruned=True, curve={1: 0.5, 3: 0.25})
    study.tell("failed", None)
    found = {one.user_attrs["trial"]: one for one in trials_of(tmp_path, "space")}
    assert {name: one.state for name, one in found.items()} == {
        "good": TrialState.COMPLETE,
        "pruned": TrialState.PRUNED,
        "failed": TrialState.FAIL,
        "running": TrialState.RUNNING,
    }
    assert found["good"].value == 0.75
    assert (found["good"].user_attrs["vote"], found["good"].user_attrs["neighbours"]) == ("softmax", 5)
    assert found["pruned"].intermediate_values == {1: 0.5, 3: 0.25}


def test_a_second_tell_changes_nothing(tmp_path: Path) -> None:
    study = open_study(searching(tmp_path, "optuna"), tmp_path)
    proposal = study.ask()
    assert proposal
    study.begin(proposal.number, "a")
    study.tell("a", 0.5)
    open_study(searching(tmp_path, "optuna"), tmp_path, "a").tell("a", 0.9)
    assert [one.value for one in trials_of(tmp_path, "space")] == [0.5]


def test_a_reopened_study_keeps_running_trials_and_drops_unused_proposals(tmp_path: Path) -> None:
    study = open_study(searching(tmp_path, "optuna"), tmp_path)
    first, _left_by_a_kill = study.ask(), study.ask()
    assert first
    study.begin(first.number, "a")
    again = open_study(searching(tmp_path, "optuna"), tmp_path, "a")
    again.tell("a", 0.5)
    assert [one.state for one in trials_of(tmp_path, "space")] == [TrialState.COMPLETE, TrialState.FAIL]


def test_a_grid_killed_between_two_steps_still_proposes_every_cell(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, GRID)
    open_study(sweep, tmp_path)
    cell = next(grid_points(sweep.axes))
    optuna.load_study(study_name="grid", storage=f"sqlite:///{tmp_path / 'study.db'}").enqueue_trial(cell)
    assert drawn(open_study(sweep, tmp_path), 4) == list(grid_points(sweep.axes))


GROWN = (
    "model.embedding_size=[8, 16, 32]",
    "loss.name=[arcface, supcon, triplet]",
    "train.epochs=[10, 20]",
    "model.embedding_size=[16, 8]",
    "model.embedding_size=8",
)


@pytest.mark.parametrize("option", GROWN)
def test_an_axis_can_grow_shrink_or_appear_and_finished_trials_are_kept(tmp_path: Path, option: str) -> None:
    sweep = sweep_of(tmp_path, GRID)
    points = drawn(open_study(sweep, tmp_path), 4)
    done = {f"trial {place}": point for place, point in enumerate(points)}
    grown = sweep_of(tmp_path, GRID, option)
    study = open_study(grown, tmp_path, *done, known=lambda point: point in points)
    for trial, point in done.items():
        study.adopt(trial, point, ended=True)
        study.tell(trial, 0.5)
    new = [point for point in grid_points(grown.axes) if point not in points]
    assert drawn(study, len(new)) == new
    assert study.ask() is None
    kept = [one for one in trials_of(tmp_path, "grid 2") if one.user_attrs.get("trial") in done]
    assert all(one.value == 0.5 and one.params in points for one in kept)
    assert len(kept) == sum(point in list(grid_points(grown.axes)) for point in points)


def test_a_range_can_grow_in_the_same_study(tmp_path: Path) -> None:
    drawn(open_study(searching(tmp_path, "optuna"), tmp_path), 3)
    wider = load_sweep(tmp_path / "sweep.yaml", ["train.learning_rate={low: 1.0e-6, high: 1.0, log: true}"])
    drawn(open_study(wider, tmp_path), 15)
    assert len(trials_of(tmp_path, "space")) == 18


def test_another_objective_is_another_study(tmp_path: Path) -> None:
    drawn(open_study(sweep_of(tmp_path, GRID), tmp_path), 1)
    study = open_study(sweep_of(tmp_path, GRID, "search.objective=map@5"), tmp_path, "a")
    study.adopt("a", next(grid_points(sweep_of(tmp_path, GRID).axes)), ended=True)
    study.tell("a", 0.25)
    assert [one.value for one in trials_of(tmp_path, "grid 2")] == [0.25]


def test_a_trial_that_runs_again_gets_a_new_number(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, GRID)
    study = open_study(sweep, tmp_path)
    proposal = study.ask()
    assert proposal
    study.begin(proposal.number, "a")
    study.tell("a", None)
    again = open_study(sweep, tmp_path, "a")
    again.adopt("a", proposal.point, ended=False)
    again.tell("a", 0.5)
    assert [one.state for one in trials_of(tmp_path, "grid")] == [TrialState.FAIL, TrialState.COMPLETE]


def test_a_duplicate_proposal_gets_the_score_of_its_trial(tmp_path: Path) -> None:
    study = open_study(searching(tmp_path, "random"), tmp_path)
    for score in (0.5, None):
        proposal = study.ask()
        assert proposal
        study.tell_duplicate(proposal.number, "a", score)
    found = trials_of(tmp_path, "space")
    assert [one.state for one in found] == [TrialState.COMPLETE, TrialState.FAIL]
    assert found[0].value == 0.5
    assert found[0].user_attrs["repeats"] == "a"
