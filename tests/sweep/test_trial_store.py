"""Trial store: pending trials, recorded outcomes and kept weights."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest

from whale_ray.errors import InputError
from whale_ray.sweep.config.sweep_spec import Sweep, load_sweep
from whale_ray.sweep.execution.trial_store import TrialStore, open_trial_store
from whale_ray.sweep.run_folder.records import forget_failed, read_record, write_result
from whale_ray.sweep.trials.embeddings_io import write_embeddings
from whale_ray.sweep.trials.scoring import scoring_of

pytestmark = pytest.mark.integration

GRID = """
name: grid
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
    return tmp_path / "grid"


def sweep_of(folder: Path, *options: str, text: str = GRID) -> Sweep:
    folder.mkdir(exist_ok=True)
    path = folder.parent / "sweep.yaml"
    path.write_text(text)
    return load_sweep(path, options)


def open_store(folder: Path, *options: str, text: str = GRID, data: str = FINGERPRINT) -> TrialStore:
    return open_trial_store(sweep_of(folder, *options, text=text), folder, data_fingerprint=data)


def end(store: TrialStore, trial: str, score: float, **result: object) -> None:
    """Write what a worker leaves of a trial that finishes, and settle it."""
    folder = store.folder / "trials" / trial
    (folder / "checkpoint").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoint" / "encoder.safetensors").write_bytes(b"weights")
    scores = {"recall@1": score, "map@5": 1 - score, "scored_with": scoring_of(store.sweep).written()}
    write_result(folder, {"status": "finished", "error": "", **scores, **result})
    write_embeddings(
        {"plain": vectors(store.folder, trial)}, PHOTOGRAPHS.assign(split=0, viewpoint="", species=""), folder
    )
    store.outcomes.settle(trial, status="pruned")


def vectors(folder: Path, trial: str) -> np.ndarray:
    drawn = np.random.default_rng(abs(hash(trial)) % 2**32)
    return drawn.normal(size=(len(PHOTOGRAPHS), 4)).astype(np.float16)


def run_all(store: TrialStore) -> list[str]:
    trials = []
    for place, trial in enumerate(store.queue.trials()):
        trials.append(trial)
        end(store, trial, place / 10)
    return trials


def study_of(folder: Path, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{folder / 'study.db'}")


def with_weights(folder: Path) -> set[str]:
    return {path.parent.parent.name for path in folder.glob("trials/*/checkpoint/encoder.safetensors")}


def test_the_baseline_runs_first_and_has_its_kind_in_its_id(folder: Path) -> None:
    first, *others = run_all(open_store(folder))
    assert first.startswith("baseline-")
    record = read_record(folder / "trials" / first)
    assert (record.kind, record.point, record.settings["train"]["epochs"]) == ("baseline", {}, 0)
    assert len(others) == 4
    assert all(len(trial) == 8 and int(trial, 16) >= 0 for trial in others)
    assert [one for one in read_ids(folder) if one.startswith("baseline")] == [first]


def read_ids(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "trials").iterdir())


def test_nothing_is_run_twice(folder: Path) -> None:
    assert len(run_all(open_store(folder))) == 5
    assert run_all(open_store(folder)) == []


def test_a_grown_axis_runs_only_the_new_cells(folder: Path) -> None:
    old = run_all(open_store(folder))
    new = run_all(open_store(folder, "model.embedding_size=[8, 16, 32]"))
    assert len(new) == 2
    assert not set(new) & set(old)
    points = [read_record(folder / "trials" / trial).point for trial in new]
    assert points == [
        {"model.embedding_size": 32, "loss.name": "arcface"},
        {"model.embedding_size": 32, "loss.name": "supcon"},
    ]
    assert run_all(open_store(folder, "model.embedding_size=[8, 16, 32]")) == []
    assert run_all(open_store(folder)) == []


def test_a_new_axis_runs_only_what_is_not_its_default(folder: Path) -> None:
    run_all(open_store(folder))
    new = run_all(open_store(folder, "train.batch_size=[64, 32]"))
    assert [read_record(folder / "trials" / trial).point["train.batch_size"] for trial in new[-4:]] == [32] * 4
    assert [trial for trial in new if not trial.startswith("baseline")] == new[-4:]


def test_unfinished_trials_come_first_and_keep_their_ids(folder: Path) -> None:
    trials = open_store(folder).queue.trials()
    begun = [next(trials) for _ in range(3)]
    again = open_store(folder)
    assert sorted(run_all(again)[:3]) == sorted(begun)
    assert len(read_ids(folder)) == 5


def test_failed_trials_are_kept_until_they_are_forgotten(folder: Path) -> None:
    store = open_store(folder)
    failed = ""
    for trial in store.queue.trials():
        if not trial.startswith("baseline") and not failed:
            failed = trial
            (folder / "trials" / trial / "traceback.txt").write_text("Traceback")
            store.outcomes.settle(trial, status="failed", error="its worker was lost")
        else:
            end(store, trial, 0.5)
    assert run_all(open_store(folder)) == []
    table = pd.read_csv(folder / "leaderboard.csv")
    assert table.iloc[-1][["trial", "status", "error"]].tolist() == [failed, "failed", "its worker was lost"]
    forget_failed(folder)
    assert not (folder / "trials" / failed / "traceback.txt").exists()
    assert run_all(open_store(folder)) == [failed]
    assert "failed" not in set(pd.read_csv(folder / "leaderboard.csv")["status"])


def test_only_the_best_keep_their_weights(folder: Path) -> None:
    trials = run_all(open_store(folder))
    assert with_weights(folder) == set(trials[-2:])


def test_a_pruned_trial_keeps_its_scores_and_not_its_weights(folder: Path) -> None:
    store = open_store(folder)
    trials = store.queue.trials()
    next(trials)
    trial = next(trials)
    place = folder / "trials" / trial
    (place / "checkpoint").mkdir()
    (place / "checkpoint" / "state.pt").write_bytes(b"state")
    (place / "epochs.csv").write_text("epoch,loss,seconds,recall@1,map@5\n1,2.0,3.5,0.25,0.1\n")
    record = store.outcomes.settle(trial, status="pruned")
    assert (record.status, record.result["recall@1"], record.result["epochs"]) == ("pruned", 0.25, 1)
    assert not (place / "checkpoint").exists()
    assert (place / "epochs.csv").exists()
    rows = sqlite3.connect(folder / "study.db").execute("select state from trials").fetchall()
    assert rows == [("PRUNED",)]


def test_the_outcome_of_a_finished_trial_is_not_overwritten(folder: Path) -> None:
    store = open_store(folder)
    trial = next(store.queue.trials())
    write_result(folder / "trials" / trial, {"status": "failed", "error": "the loss is nan"})
    assert store.outcomes.settle(trial, status="pruned").result == {"status": "failed", "error": "the loss is nan"}


@pytest.mark.parametrize("strategy", ["random", "optuna"])
def test_a_search_runs_its_number_of_trials_and_continues_when_that_grows(folder: Path, strategy: str) -> None:
    options = (f"search.strategy={strategy}", "train.learning_rate={low: 1.0e-5, high: 1.0e-1, log: true}")
    first = run_all(open_store(folder, *options, "search.trials=3"))
    assert len(first) == 1 + 3
    assert run_all(open_store(folder, *options, "search.trials=3")) == []
    assert len(run_all(open_store(folder, *options, "search.trials=5"))) == 2


def test_a_search_ends_when_the_space_is_exhausted(folder: Path) -> None:
    trials = run_all(open_store(folder, "search.strategy=random", "search.trials=20"))
    assert len(trials) == len(set(trials)) == 1 + 4


def test_no_trial_starts_after_the_hours_budget(folder: Path) -> None:
    trials = run_all(open_store(folder, "search.strategy=random", "search.trials=4", "search.hours=1.0e-9"))
    assert len(trials) == 1


@pytest.mark.parametrize(
    ("options", "data", "changed"),
    [
        ((), "fedcba9876543210", f"labels was {FINGERPRINT} and is fedcba9876543210"),
        (("data.val_fraction=0.5",), FINGERPRINT, ": data.val_fraction was 0.2 and is 0.5. Use"),
        (("split.kind=halves",), FINGERPRINT, "split.kind was stratified and is halves"),
    ],
)
def test_trials_of_other_photographs_or_another_split_are_not_mixed(
    folder: Path, options: tuple[str, ...], data: str, changed: str
) -> None:
    run_all(open_store(folder))
    with pytest.raises(InputError, match=r"same photographs and split, but 5 of .* --fresh") as refusal:
        open_store(folder, *options, data=data)
    assert changed in str(refusal.value)


@pytest.mark.parametrize(
    "option",
    ["search.objective=map@5", "search.objective=map@5_individuals", "retrieval.vote=[nearest, centroid]"],
)
def test_another_objective_or_retrieval_rescores_and_trains_nothing(folder: Path, option: str) -> None:
    trials = run_all(open_store(folder))
    other = open_store(folder, option)
    assert other.rescored == len(trials)
    assert run_all(other) == []
    board = other.outcomes.leaderboard()
    assert sorted(board["trial"]) == sorted(trials)
    assert board[other.objective].is_monotonic_decreasing
    assert set(board["recall@1"]) != {place / 10 for place in range(len(trials))}
    assert {one.value for one in study_of(folder, "grid 2").trials} == set(
        board[other.objective][board["kind"] == "trial"]
    )
    assert open_store(folder, option).rescored == 0


def scored_by_an_earlier_version(folder: Path, trial: str, **changed: object) -> None:
    """Make a trial's result that of a version without scores over individuals."""
    result = json.loads((folder / "trials" / trial / "result.json").read_text())
    result["scored_with"] |= {"definition": 3, **changed}
    write_result(folder / "trials" / trial, {name: result[name] for name in result if "individuals" not in name})


def test_trials_of_an_earlier_version_get_the_newer_scores(folder: Path) -> None:
    trials = run_all(open_store(folder))
    for trial in trials:
        scored_by_an_earlier_version(folder, trial)
    store = open_store(folder)
    assert store.rescored == len(trials)
    board = store.outcomes.leaderboard()
    assert board[["map@5_individuals", "recall@1_individuals_low"]].notna().all(axis=None)
    assert run_all(store) == []


def test_trials_of_an_earlier_version_without_embeddings_keep_their_scores(folder: Path) -> None:
    first, *_ = run_all(open_store(folder))
    scored_by_an_earlier_version(folder, first)
    (folder / "trials" / first / "embeddings.npz").unlink()
    store = open_store(folder)
    assert store.rescored == 0
    assert any(
        note == "trials that keep the scores of an earlier version, since they have no embeddings: 1"
        for note in store.notes
    )
    board = store.outcomes.leaderboard().set_index("trial")
    assert board["recall@1"].notna().all()
    assert pd.isna(board.loc[first, "map@5_individuals"])
    assert run_all(store) == []


@pytest.mark.parametrize("changed", [{"retrieval": []}, {"objective": "map@5"}])
def test_trials_that_must_be_scored_again_need_their_embeddings(folder: Path, changed: dict[str, object]) -> None:
    first, *_ = run_all(open_store(folder))
    scored_by_an_earlier_version(folder, first, **changed)
    (folder / "trials" / first / "embeddings.npz").unlink()
    with pytest.raises(InputError, match=rf"{first} must be whole, but .*embeddings.npz cannot be read"):
        open_store(folder)


def test_cut_embeddings_are_reported_before_anything_is_changed(folder: Path) -> None:
    trial, *_ = run_all(open_store(folder))
    path = folder / "trials" / trial / "embeddings.npz"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(InputError, match=rf"{trial} must be whole, but .*embeddings.npz cannot be read"):
        open_store(folder, "search.objective=map@5")
    assert run_all(open_store(folder)) == []


def test_settings_of_a_trial_are_all_that_is_needed_to_run_it(folder: Path) -> None:
    *_, trial = run_all(open_store(folder))
    written = json.loads((folder / "trials" / trial / "settings.json").read_text())
    sweep = sweep_of(folder)
    assert written["settings"] == json.loads(json.dumps(sweep.settings(written["point"])))


# Work per settled trial


class FileReads:
    """Counts the reads of trial files by `Path.read_text` and `pandas.read_csv`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        monkeypatch.setattr(Path, "read_text", self._counted(Path.read_text))
        monkeypatch.setattr(pd, "read_csv", self._counted(pd.read_csv))

    def _counted(self, read: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            self.count += "trials" in str(args[0])
            return read(*args, **options)

        return counted


def test_the_files_read_per_trial_do_not_grow_with_the_number_of_trials(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(folder, "model.embedding_size=[8, 16, 24, 32, 48, 64]", "loss.name=[arcface, supcon, cosface]")
    reads = FileReads(monkeypatch)
    begun, settled = [], []
    upcoming = store.queue.trials()
    while True:
        reads.count = 0
        trial = next(upcoming, None)
        if trial is None:
            break
        begun.append(reads.count)
        reads.count = 0
        end(store, trial, 0.5)
        settled.append(reads.count)
    assert len(settled) == 19
    assert set(begun[1:]) == {begun[1]}
    assert set(settled[1:]) == {settled[1]}
    assert max(begun + settled) <= 4


def test_a_running_trial_has_the_scores_of_its_last_epoch_in_the_leaderboard(folder: Path) -> None:
    store = open_store(folder)
    upcoming = store.queue.trials()
    first, second = str(next(upcoming)), str(next(upcoming))
    curve = "epoch,loss,seconds,recall@1,map@5\n1,2.0,3.5,0.25,0.1\n"
    (folder / "trials" / second / "epochs.csv").write_text(curve)
    end(store, first, 0.5)
    row = pd.read_csv(folder / "leaderboard.csv").set_index("trial").loc[second]
    assert row[["status", "recall@1", "epochs"]].tolist() == ["running", 0.25, 1]


def test_weights_that_the_quota_has_dropped_are_not_looked_for_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[Path] = []
    monkeypatch.setattr("whale_ray.sweep.execution.outcome_recorder.drop_weights", dropped.append)
    run_all(open_store(folder))
    assert len(dropped) == len(set(dropped)) == 3


# Finalists, budgets, and trials that run again


def test_finalists_are_repeated_with_new_seeds_at_the_end_and_ranked_by_their_mean(folder: Path) -> None:
    options = ("search.repeats=2", "search.finalists=2")
    store = open_store(folder, *options)
    scores: dict[str, float] = {}
    upcoming = store.queue.trials()
    waiting: list[str] = []
    while (trial := next(upcoming, "")) != "":
        if trial is None:  # finalists are known when nothing runs any more
            assert waiting
            end(store, waiting[0], scores[waiting.pop(0)])
            continue
        record = store.index.reload(trial)
        if record.kind == "repeat":
            assert record.settings["seed"] in (1, 2)
            end(store, trial, 0.5)
        else:
            scores[trial] = len(scores) / 10
            waiting.append(trial)
    board = store.outcomes.leaderboard()
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
    assert run_all(open_store(folder, *options)) == []


def test_repeats_are_handed_out_at_the_same_time_when_the_trials_of_the_search_have_ended(folder: Path) -> None:
    store = open_store(folder, "search.repeats=2", "search.finalists=2")
    upcoming = store.queue.trials()
    begun = [str(next(upcoming)) for _ in range(5)]
    for trial in begun[:-1]:
        end(store, trial, 0.5)
        assert next(upcoming) is None, "the finalists are not known yet"
    assert store.queue.may_go_on()
    end(store, begun[-1], 0.6)
    repeats, waiting = [], []
    for _ in range(4):
        repeats.append(str(next(upcoming)))
        waiting.append(store.queue.count_waiting())
    assert {store.index.get(trial).kind for trial in repeats} == {"repeat"}
    assert waiting == [3, 2, 1, 0]
    assert next(upcoming) is None
    assert not store.queue.may_go_on()
    for trial in repeats:
        end(store, trial, 0.5)
    assert list(upcoming) == []


def test_a_later_better_trial_is_repeated_and_may_win(folder: Path) -> None:
    options = ("search.repeats=1", "search.finalists=1")
    run_all(open_store(folder, *options))
    store = open_store(folder, *options, "model.embedding_size=[8, 16, 48]")
    later = []
    for trial in store.queue.trials():
        later.append(str(trial))
        end(store, later[-1], 0.9)
    assert [store.index.reload(trial).kind for trial in later] == ["trial", "trial", "repeat"]
    assert store.outcomes.leaderboard()["trial"].iloc[0] in later[:2]


def test_the_hours_budget_counts_all_sessions(folder: Path) -> None:
    folder.mkdir()
    (folder / "clock.json").write_text('{"seconds": 3600.0}')
    assert len(run_all(open_store(folder, "search.hours=1"))) == 1  # the baseline alone
    assert len(run_all(open_store(folder, "search.hours=2"))) == 4
    store = open_store(folder, "search.hours=2")
    store.clock.save_if_due()
    assert json.loads((folder / "clock.json").read_text())["seconds"] >= 3600


def test_the_trials_that_wait_are_counted_down_to_none(folder: Path) -> None:
    store = open_store(folder)
    upcoming, waiting = store.queue.trials(), [store.queue.count_waiting()]
    begun = []
    for _ in range(5):
        begun.append(str(next(upcoming)))
        waiting.append(store.queue.count_waiting())
    assert waiting == [5, 4, 3, 2, 1, 0], "the baseline and four cells"
    assert not store.queue.may_go_on()
    store.queue.run_again(begun[0])
    assert store.queue.count_waiting() == 1
    assert store.queue.may_go_on()


def test_unfinished_trials_wait_and_those_of_other_settings_do_not_count(folder: Path) -> None:
    run_all(open_store(folder))
    other = ("model.embedding_size=[32, 48]",)
    interrupted = open_store(folder, *other)
    next(interrupted.queue.trials())
    resumed = open_store(folder, *other).queue
    assert resumed.count_waiting() == 4
    assert len([trial for trial, _ in zip(resumed.trials(), range(4), strict=False)]) == 4
    assert resumed.count_waiting() == 0


def test_after_the_hours_only_unfinished_trials_and_baselines_wait(folder: Path) -> None:
    folder.mkdir()
    (folder / "clock.json").write_text('{"seconds": 3600.0}')
    queue = open_store(folder, "search.hours=1").queue
    assert queue.count_waiting() == 1
    next(queue.trials())
    assert queue.count_waiting() == 0
    assert not queue.may_go_on()


def test_no_trial_waits_when_a_search_has_drawn_all_of_its_space(folder: Path) -> None:
    queue = open_store(folder, "search.strategy=random", "search.trials=50").queue
    upcoming = queue.trials()
    assert len([trial for trial, _ in zip(upcoming, range(5), strict=False)]) == 5
    assert next(upcoming) is None
    assert queue.count_waiting() == 0


def test_workers_are_kept_for_repeats_of_the_finalists(folder: Path) -> None:
    queue = open_store(folder, "search.repeats=1", "search.finalists=1").queue
    assert len([trial for trial, _ in zip(queue.trials(), range(5), strict=False)]) == 5
    assert queue.may_go_on()


def test_a_trial_that_lost_its_worker_runs_again_before_new_ones_begin(folder: Path) -> None:
    queue = open_store(folder).queue
    upcoming = queue.trials()
    begun = [str(next(upcoming)) for _ in range(2)]
    queue.run_again(begun[1])
    assert next(upcoming) == begun[1]
    assert next(upcoming) not in (None, *begun)


def test_a_trial_that_did_not_fit_beside_others_runs_again_alone_and_only_once(folder: Path) -> None:
    store = open_store(folder)
    upcoming = store.queue.trials()
    baseline, trial = next(upcoming), next(upcoming)
    assert baseline
    assert trial
    end(store, baseline, 0.0)
    (folder / "trials" / trial / "alone").touch()
    assert store.queue.requeue_alone(trial)
    others = [next(upcoming) for _ in range(3)]
    for other in others:
        assert other
        end(store, other, 0.1)
    assert not store.queue.awaits_whole_gpu
    assert next(upcoming) == trial
    assert store.queue.awaits_whole_gpu
    store.queue.mark_started(trial)
    assert not store.queue.awaits_whole_gpu
    assert next(upcoming) is None
    assert not store.queue.requeue_alone(trial)
    store.outcomes.fail(trial, "out of memory")
    assert store.outcomes.settle(trial, status="failed").status == "failed"
    assert list(upcoming) == []


@pytest.mark.parametrize(("schedule", "goes_on"), [("cosine", True), ("constant", False)])
def test_early_stopping_compares_trials_of_other_lengths_only_at_a_constant_learning_rate(
    folder: Path, schedule: str, goes_on: bool
) -> None:
    options = ("search.scheduler=asha", "search.grace=1", "search.reduction_factor=2", "train.epochs=[4, 8]")
    store = open_store(folder, *options, "loss.name=arcface", f"train.schedule={schedule}", "model.embedding_size=16")
    upcoming = store.queue.trials()
    next(upcoming)
    one, two = (str(next(upcoming)) for _ in range(2))
    epochs = {store.index.reload(trial).settings["train"]["epochs"] for trial in (one, two)}
    assert epochs == {4, 8}
    assert store.may_continue(one, {"epoch": 1, "recall@1": 0.5})
    assert store.may_continue(two, {"epoch": 1, "recall@1": 0.4}) == goes_on


def test_early_stopping_compares_trials_of_one_encoder_and_of_earlier_sessions(folder: Path) -> None:
    options = ("search.scheduler=asha", "search.grace=1", "search.reduction_factor=2", "train.epochs=4")
    store = open_store(folder, *options)
    upcoming = store.queue.trials()
    next(upcoming)
    one, two = str(next(upcoming)), str(next(upcoming))
    assert store.may_continue(one, {"epoch": 1, "recall@1": 0.5})
    pd.DataFrame({"epoch": [1], "loss": [1.0], "recall@1": [0.5]}).to_csv(folder / "trials" / one / "epochs.csv")
    again = open_store(folder, *options)
    assert not again.may_continue(two, {"epoch": 1, "recall@1": 0.4})
    assert again.may_continue(two, {"epoch": 4, "recall@1": 0.4})
    assert again.may_continue(two, {"epoch": 3, "recall@1": None})
