"""Leaderboard: order, columns and escaped cells."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from whale_ray.sweep.run_folder.leaderboard import finished_trials, kept_weights, leaderboard, write_leaderboard
from whale_ray.sweep.run_folder.records import read_record, read_records, write_record, write_result

AXES = ["loss.name", "train.learning_rate"]
CUTOFFS = (1, 2, 4, 8, 16, 32)
CONTRACT = [
    *("rank", "trial", "status", *AXES),
    *(f"recall@{cutoff}" for cutoff in CUTOFFS),
    *(f"image_recall@{cutoff}" for cutoff in CUTOFFS),
    *("map@5", "recall@1_low", "recall@1_high", "neighbours", "vote", "local", "epochs", "seconds", "error"),
]
ADDED = [f"{score}_individuals{end}" for score in ("map@5", "recall@1") for end in ("", "_low", "_high")]


def trial(run: Path, name: str, point: dict[str, Any] | None = None, **result: Any) -> Path:
    """A trial's folder; without a result it has not ended."""
    folder = run / "trials" / name
    write_record(folder, kind="trial", point=point or {}, settings={}, data_fingerprint="0" * 16)
    if result:
        write_result(folder, {name.replace("at_", "@"): value for name, value in result.items()})
    return folder


def table_of(run: Path, objective: str = "recall@1") -> pd.DataFrame:
    return leaderboard(read_records(run), axes=AXES, objective=objective)


def read(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_finished_trials_come_first_by_score_then_pruned_running_and_failed(tmp_path: Path) -> None:
    trial(tmp_path, "a", status="failed", error="no")
    trial(tmp_path, "b")
    trial(tmp_path, "c", status="pruned", recallat_1=0.99)
    trial(tmp_path, "d", status="finished", recallat_1=0.2)
    trial(tmp_path, "e", status="finished", recallat_1=0.6)
    trial(tmp_path, "f", status="finished", recallat_1=None)
    trial(tmp_path, "h", status="finished", recallat_1=0.2)
    trial(tmp_path, "g", status="finished", recallat_1=0.2)
    table = table_of(tmp_path)
    assert table["trial"].tolist() == list("edghfcba")
    assert table["rank"].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert table["status"].tolist() == [*["finished"] * 5, "pruned", "running", "failed"]
    assert finished_trials(table) == list("edghf")


def test_the_objective_orders(tmp_path: Path) -> None:
    trial(tmp_path, "a", status="finished", recallat_1=0.9, mapat_5=0.1)
    trial(tmp_path, "b", status="finished", recallat_1=0.1, mapat_5=0.9)
    assert finished_trials(table_of(tmp_path)) == ["a", "b"]
    assert finished_trials(table_of(tmp_path, "map@5")) == ["b", "a"]


@pytest.mark.parametrize("objective", ["map@5_individuals", "recall@1_individuals"])
def test_a_score_over_individuals_orders_and_has_its_column_once(tmp_path: Path, objective: str) -> None:
    for name, value in (("a", 0.2), ("b", 0.4), ("c", None)):
        trial(tmp_path, name, status="finished", **{objective: value, "recallat_1": 0.5})
    trial(tmp_path, "d", status="finished", recallat_1=0.9)  # written before the score existed
    table = table_of(tmp_path, objective)
    assert finished_trials(table) == ["b", "a", "c", "d"]
    assert table.columns.drop("kind").tolist() == [*CONTRACT, *ADDED]


def test_the_file_has_the_columns_of_the_contract(tmp_path: Path) -> None:
    trial(tmp_path, "a", {"loss.name": "arcface"}, status="finished", recallat_1=0.5, neighbours=5, epochs=3)
    write_leaderboard(table_of(tmp_path), tmp_path / "leaderboard.csv")
    header, row = read(tmp_path / "leaderboard.csv")
    assert header == [*CONTRACT, *ADDED]
    found = dict(zip(header, row, strict=True))
    assert (found["trial"], found["loss.name"], found["train.learning_rate"]) == ("a", "arcface", "")
    assert (found["neighbours"], found["epochs"], found["recall@1"]) == ("5", "3", "0.5")


def test_a_run_without_trials_has_a_header(tmp_path: Path) -> None:
    write_leaderboard(table_of(tmp_path), tmp_path / "leaderboard.csv")
    assert read(tmp_path / "leaderboard.csv") == [[*CONTRACT, *ADDED]]


@pytest.mark.parametrize("evil", ["=HYPERLINK(1)", "+1+1", "-1+1", "@SUM(1)", "\t=1", "\r=1"])
def test_formula_cells_are_escaped(tmp_path: Path, evil: str) -> None:
    trial(tmp_path, "a", {"loss.name": evil}, status="failed", error=evil)
    trial(tmp_path, "b", {"train.learning_rate": -1.5}, status="finished", recallat_1=0.5)
    write_leaderboard(table_of(tmp_path), tmp_path / "leaderboard.csv")
    text = pd.read_csv(tmp_path / "leaderboard.csv", dtype=str, keep_default_na=False)
    failed = text[text["trial"] == "a"].iloc[0]
    shown = f"'{evil}" if evil[0] != "\r" else " =1"
    assert failed["error"] == failed["loss.name"] == shown
    assert text.loc[text["trial"] == "b", "train.learning_rate"].item() == "-1.5"


def test_an_unfinished_trial_shows_the_last_epoch_that_was_evaluated(tmp_path: Path) -> None:
    folder = trial(tmp_path, "a")
    (folder / "epochs.csv").write_text(
        "epoch,loss,seconds,recall@1,map@5\n1,2.0,10,,0.1\n2,1.5,10,,0.2\n3,1.2,10.5,,\n"
    )
    record = read_record(folder)
    assert record.status == "running"
    assert record.result["map@5"] == 0.2
    assert (record.result["epochs"], record.result["seconds"]) == (3, 30.5)
    assert table_of(tmp_path)["map@5"].tolist() == [0.2]


def test_a_trial_folder_without_records_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "trials" / "empty").mkdir(parents=True)
    assert read_records(tmp_path) == []


def test_weights_of_collapsed_trials_are_kept_only_in_place_of_no_others(tmp_path: Path) -> None:
    for number, name in enumerate("abcde"):
        trial(tmp_path, name, status="finished", recallat_1=0.9 - number / 10)
    sweep: Any = SimpleNamespace(objective="recall@1", also=None, ranked_by="recall@1", fixed={"keep_checkpoints": 3})
    table = table_of(tmp_path)
    assert kept_weights(table, sweep) == {"a", "b", "c"}
    assert kept_weights(table, sweep, collapsed={"a", "b"}) == {"c", "d", "e"}
    assert kept_weights(table, sweep, collapsed={"a", "b", "d"}) == {"c", "e", "a"}
