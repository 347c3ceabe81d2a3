"""The books of a sweep: what is still to run, what becomes of it, what is kept."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest

from whale_ray.errors import InputError
from whale_ray.sweep.config.sweep_spec import Sweep, load_sweep
from whale_ray.sweep.execution.trial_ledger import Ledger
from whale_ray.sweep.run_folder.records import forget_failed, read_record, write_result
from whale_ray.sweep.trials.embeddings_io import write_embeddings
from whale_ray.sweep.trials.scoring import scoring_of

GRID = """
name: books
model: {encoder: tiny, embedding_size: [8, 16], weights: random}
loss: {name: [arcface, supcon]}
keep_checkpoints: 2
"""
FINGERPRINT = "0123456789abcdef"
PHOTOGRAPHS = pd.DataFrame(
    {
        "image": [f"{row}.jpg" for row in range(24)],
        "individual": [f"w_{row % 6}" for row in range(18)] + ["new_whale"] * 6,
        "group": "",
        "part": ["train"] * 12 + ["val"] * 12,
    }
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "books"


def sweep_of(folder: Path, *options: str, text: str = GRID) -> Sweep:
    folder.mkdir(exist_ok=True)
    path = folder.parent / "sweep.yaml"
    path.write_text(text)
    return load_sweep(path, options)


def open_ledger(folder: Path, *options: str, text: str = GRID, data: str = FINGERPRINT) -> Ledger:
    return Ledger(sweep_of(folder, *options, text=text), folder, data_fingerprint=data)


def end(ledger: Ledger, trial: str, score: float, **result: object) -> None:
    """What a worker leaves of a trial that ends well, and what the driver then does."""
    folder = ledger.folder / "trials" / trial
    (folder / "checkpoint").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoint" / "encoder.safetensors").write_bytes(b"weights")
    scores = {"recall@1": score, "map@5": 1 - score, "scored_with": scoring_of(ledger.sweep).written()}
    write_result(folder, {"status": "finished", "error": "", **scores, **result})
    write_embeddings({"plain": vectors(ledger.folder, trial)}, PHOTOGRAPHS.assign(split=0), folder)
    ledger.settle(trial, status="pruned")


def vectors(folder: Path, trial: str) -> np.ndarray:
    drawn = np.random.default_rng(abs(hash(trial)) % 2**32)
    return drawn.normal(size=(len(PHOTOGRAPHS), 4)).astype(np.float16)


def run_all(ledger: Ledger) -> list[str]:
    trials = []
    for place, trial in enumerate(ledger.trials()):
        trials.append(trial)
        end(ledger, trial, place / 10)
    return trials


def study_of(folder: Path, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{folder / 'study.db'}")


def with_weights(folder: Path) -> set[str]:
    return {path.parent.parent.name for path in folder.glob("trials/*/checkpoint/encoder.safetensors")}


def test_the_baseline_is_trial_zero_and_says_so_in_its_id(folder: Path) -> None:
    first, *others = run_all(open_ledger(folder))
    assert first.startswith("baseline-")
    record = read_record(folder / "trials" / first)
    assert (record.kind, record.point, record.settings["train"]["epochs"]) == ("baseline", {}, 0)
    assert len(others) == 4
    assert all(len(trial) == 8 and int(trial, 16) >= 0 for trial in others)
    assert [one for one in read_ids(folder) if one.startswith("baseline")] == [first]


def read_ids(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "trials").iterdir())


def test_nothing_is_run_twice(folder: Path) -> None:
    assert len(run_all(open_ledger(folder))) == 5
    assert run_all(open_ledger(folder)) == []


def test_a_grown_axis_runs_only_the_new_cells(folder: Path) -> None:
    old = run_all(open_ledger(folder))
    new = run_all(open_ledger(folder, "model.embedding_size=[8, 16, 32]"))
    assert len(new) == 2
    assert not set(new) & set(old)
    points = [read_record(folder / "trials" / trial).point for trial in new]
    assert points == [
        {"model.embedding_size": 32, "loss.name": "arcface"},
        {"model.embedding_size": 32, "loss.name": "supcon"},
    ]
    assert run_all(open_ledger(folder, "model.embedding_size=[8, 16, 32]")) == []
    assert run_all(open_ledger(folder)) == []


def test_a_new_axis_runs_only_what_is_not_its_default(folder: Path) -> None:
    run_all(open_ledger(folder))
    new = run_all(open_ledger(folder, "train.batch_size=[64, 32]"))
    assert [read_record(folder / "trials" / trial).point["train.batch_size"] for trial in new[-4:]] == [32] * 4
    assert [trial for trial in new if not trial.startswith("baseline")] == new[-4:]


def test_unfinished_trials_come_first_and_keep_their_ids(folder: Path) -> None:
    trials = open_ledger(folder).trials()
    begun = [next(trials) for _ in range(3)]
    again = open_ledger(folder)
    assert sorted(run_all(again)[:3]) == sorted(begun)
    assert len(read_ids(folder)) == 5


def test_failed_trials_stay_as_they_are_until_they_are_forgotten(folder: Path) -> None:
    ledger = open_ledger(folder)
    failed = ""
    for trial in ledger.trials():
        if not trial.startswith("baseline") and not failed:
            failed = trial
            (folder / "trials" / trial / "traceback.txt").write_text("Traceback")
            ledger.settle(trial, status="failed", error="its worker was lost")
        else:
            end(ledger, trial, 0.5)
    assert run_all(open_ledger(folder)) == []
    table = pd.read_csv(folder / "leaderboard.csv")
    assert table.iloc[-1][["trial", "status", "error"]].tolist() == [failed, "failed", "its worker was lost"]
    forget_failed(folder)
    assert not (folder / "trials" / failed / "traceback.txt").exists()
    assert run_all(open_ledger(folder)) == [failed]
    assert "failed" not in set(pd.read_csv(folder / "leaderboard.csv")["status"])


def test_only_the_best_keep_their_weights(folder: Path) -> None:
    trials = run_all(open_ledger(folder))
    assert with_weights(folder) == set(trials[-2:])


def test_a_pruned_trial_keeps_its_scores_and_not_its_weights(folder: Path) -> None:
    ledger = open_ledger(folder)
    trials = ledger.trials()
    next(trials)
    trial = next(trials)
    place = folder / "trials" / trial
    (place / "checkpoint").mkdir()
    (place / "checkpoint" / "state.pt").write_bytes(b"state")
    (place / "epochs.csv").write_text("epoch,loss,seconds,recall@1,map@5\n1,2.0,3.5,0.25,0.1\n")
    record = ledger.settle(trial, status="pruned")
    assert (record.status, record.result["recall@1"], record.result["epochs"]) == ("pruned", 0.25, 1)
    assert not (place / "checkpoint").exists()
    assert (place / "epochs.csv").exists()
    rows = sqlite3.connect(folder / "study.db").execute("select state from trials").fetchall()
    assert rows == [("PRUNED",)]


def test_a_trial_that_ended_itself_is_not_settled_otherwise(folder: Path) -> None:
    ledger = open_ledger(folder)
    trial = next(ledger.trials())
    write_result(folder / "trials" / trial, {"status": "failed", "error": "the loss is nan"})
    assert ledger.settle(trial, status="pruned").result == {"status": "failed", "error": "the loss is nan"}


@pytest.mark.parametrize("strategy", ["random", "optuna"])
def test_a_search_runs_as_many_trials_as_it_is_given_and_goes_on_when_given_more(folder: Path, strategy: str) -> None:
    options = (f"search.strategy={strategy}", "train.learning_rate={low: 1.0e-5, high: 1.0e-1, log: true}")
    first = run_all(open_ledger(folder, *options, "search.trials=3"))
    assert len(first) == 1 + 3
    assert run_all(open_ledger(folder, *options, "search.trials=3")) == []
    assert len(run_all(open_ledger(folder, *options, "search.trials=5"))) == 2


def test_a_search_ends_when_the_space_has_no_more(folder: Path) -> None:
    trials = run_all(open_ledger(folder, "search.strategy=random", "search.trials=20"))
    assert len(trials) == len(set(trials)) == 1 + 4


def test_no_trial_starts_when_the_hours_are_over(folder: Path) -> None:
    trials = run_all(open_ledger(folder, "search.strategy=random", "search.trials=4", "search.hours=1.0e-9"))
    assert len(trials) == 1


@pytest.mark.parametrize(
    ("options", "data", "changed"),
    [
        ((), "fedcba9876543210", f"labels was {FINGERPRINT} and is fedcba9876543210"),
        (("data.val_fraction=0.5",), FINGERPRINT, ": data.val_fraction was 0.2 and is 0.5. Say"),
        (("split.kind=halves",), FINGERPRINT, "split.kind was stratified and is halves"),
    ],
)
def test_trials_of_other_photographs_or_another_split_are_not_mixed(
    folder: Path, options: tuple[str, ...], data: str, changed: str
) -> None:
    run_all(open_ledger(folder))
    with pytest.raises(InputError, match=r"same photographs and split, but 5 of .* --fresh") as refusal:
        open_ledger(folder, *options, data=data)
    assert changed in str(refusal.value)


@pytest.mark.parametrize("option", ["search.objective=map@5", "retrieval.vote=[nearest, centroid]"])
def test_another_objective_or_retrieval_scores_anew_and_trains_nothing(folder: Path, option: str) -> None:
    trials = run_all(open_ledger(folder))
    other = open_ledger(folder, option)
    assert other.rescored == len(trials)
    assert run_all(other) == []
    board = other.leaderboard()
    assert sorted(board["trial"]) == sorted(trials)
    assert board[other.objective].is_monotonic_decreasing
    assert set(board["recall@1"]) != {place / 10 for place in range(len(trials))}
    assert {one.value for one in study_of(folder, "books 2").trials} == set(
        board[other.objective][board["kind"] == "trial"]
    )
    assert open_ledger(folder, option).rescored == 0


def test_embeddings_that_are_cut_are_said_before_anything_is_changed(folder: Path) -> None:
    trial, *_ = run_all(open_ledger(folder))
    path = folder / "trials" / trial / "embeddings.npz"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(InputError, match=rf"{trial} must be whole, but .*embeddings.npz cannot be read"):
        open_ledger(folder, "search.objective=map@5")
    assert run_all(open_ledger(folder)) == []


def test_settings_of_a_trial_are_all_that_is_needed_to_run_it(folder: Path) -> None:
    *_, trial = run_all(open_ledger(folder))
    written = json.loads((folder / "trials" / trial / "settings.json").read_text())
    sweep = sweep_of(folder)
    assert written["settings"] == json.loads(json.dumps(sweep.settings(written["point"])))


# Finalists, budgets, and what is tried again


def test_the_finalists_are_repeated_with_new_seeds_when_all_else_has_ended_and_the_mean_wins(folder: Path) -> None:
    options = ("search.repeats=2", "search.finalists=2")
    ledger = open_ledger(folder, *options)
    scores: dict[str, float] = {}
    upcoming = ledger.trials()
    waiting: list[str] = []
    while (trial := next(upcoming, "")) != "":
        if trial is None:  # finalists are known when nothing runs any more
            assert waiting
            end(ledger, waiting[0], scores[waiting.pop(0)])
            continue
        record = ledger.record(trial)
        if record.kind == "repeat":
            assert record.settings["seed"] in (1, 2)
            end(ledger, trial, 0.5)
        else:
            scores[trial] = len(scores) / 10
            waiting.append(trial)
    board = ledger.leaderboard()
    best, second = sorted((name for name in scores if not name.startswith("baseline")), key=lambda name: -scores[name])[
        :2
    ]
    assert board["kind"].value_counts()["repeat"] == 4
    assert board["runs"].head(2).tolist() == [3, 3]
    assert set(board["trial"].head(2)) == {best, second}
    means = {name: (scores[name] + 1.0) / 3 for name in (best, second)}
    assert board["recall@1_mean"].head(2).tolist() == pytest.approx(sorted(means.values(), reverse=True))
    assert board["kind"].tolist()[-4:] == ["repeat"] * 4
    assert "recall@1_sd" in pd.read_csv(folder / "leaderboard.csv")
    assert run_all(open_ledger(folder, *options)) == []


def test_a_better_trial_that_came_later_is_repeated_too_and_may_win(folder: Path) -> None:
    options = ("search.repeats=1", "search.finalists=1")
    run_all(open_ledger(folder, *options))
    ledger = open_ledger(folder, *options, "model.embedding_size=[8, 16, 48]")
    later = []
    for trial in ledger.trials():
        later.append(str(trial))
        end(ledger, later[-1], 0.9)
    assert [ledger.record(trial).kind for trial in later] == ["trial", "trial", "repeat"]
    assert ledger.leaderboard()["trial"].iloc[0] in later[:2]


def test_hours_are_a_budget_of_all_sittings(folder: Path) -> None:
    folder.mkdir()
    (folder / "clock.json").write_text('{"seconds": 3600.0}')
    assert len(run_all(open_ledger(folder, "search.hours=1"))) == 1  # the baseline alone
    assert len(run_all(open_ledger(folder, "search.hours=2"))) == 4
    ledger = open_ledger(folder, "search.hours=2")
    ledger.tick()
    assert json.loads((folder / "clock.json").read_text())["seconds"] >= 3600


def test_a_trial_that_did_not_fit_beside_others_comes_again_alone_and_only_once(folder: Path) -> None:
    ledger = open_ledger(folder)
    upcoming = ledger.trials()
    baseline, trial = next(upcoming), next(upcoming)
    assert baseline
    assert trial
    end(ledger, baseline, 0.0)
    (folder / "trials" / trial / "alone").touch()
    assert ledger.postpone(trial)
    others = [next(upcoming) for _ in range(3)]
    for other in others:
        assert other
        end(ledger, other, 0.1)
    assert next(upcoming) == trial
    assert next(upcoming) is None
    assert not ledger.postpone(trial)
    ledger.give_up(trial, "out of memory")
    assert ledger.settle(trial, status="failed").status == "failed"
    assert list(upcoming) == []


@pytest.mark.parametrize(("schedule", "goes_on"), [("cosine", True), ("constant", False)])
def test_trials_of_other_lengths_are_compared_where_their_rate_is_constant(
    folder: Path, schedule: str, goes_on: bool
) -> None:
    options = ("search.scheduler=asha", "search.grace=1", "search.reduction_factor=2", "train.epochs=[4, 8]")
    ledger = open_ledger(folder, *options, "loss.name=arcface", f"train.schedule={schedule}", "model.embedding_size=16")
    upcoming = ledger.trials()
    next(upcoming)
    one, two = (str(next(upcoming)) for _ in range(2))
    epochs = {ledger.record(trial).settings["train"]["epochs"] for trial in (one, two)}
    assert epochs == {4, 8}
    assert ledger.goes_on(one, {"epoch": 1, "recall@1": 0.5})
    assert ledger.goes_on(two, {"epoch": 1, "recall@1": 0.4}) == goes_on


def test_a_trial_is_compared_with_those_of_its_encoder_and_of_earlier_sittings(folder: Path) -> None:
    options = ("search.scheduler=asha", "search.grace=1", "search.reduction_factor=2", "train.epochs=4")
    ledger = open_ledger(folder, *options)
    upcoming = ledger.trials()
    next(upcoming)
    one, two = str(next(upcoming)), str(next(upcoming))
    assert ledger.goes_on(one, {"epoch": 1, "recall@1": 0.5})
    pd.DataFrame({"epoch": [1], "loss": [1.0], "recall@1": [0.5]}).to_csv(folder / "trials" / one / "epochs.csv")
    again = open_ledger(folder, *options)
    assert not again.goes_on(two, {"epoch": 1, "recall@1": 0.4})
    assert again.goes_on(two, {"epoch": 4, "recall@1": 0.4})
    assert again.goes_on(two, {"epoch": 3, "recall@1": None})
