"""Sweeps of many trials: the cost of recording a trial does not grow with the number of trials."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest

from whale_ray.atomic_files import replaced_atomically
from whale_ray.sweep.analysis import fanova
from whale_ray.sweep.analysis.ensemble_choice import rank_by_fold
from whale_ray.sweep.analysis.per_query_scores import of_trials, query_scores
from whale_ray.sweep.analysis.trial_comparison import chosen_by_others
from whale_ray.sweep.config.axes import Axis
from whale_ray.sweep.config.sweep_spec import load_sweep
from whale_ray.sweep.execution.outcome_recorder import WritingPace
from whale_ray.sweep.execution.trial_store import TrialStore, open_trial_store
from whale_ray.sweep.report.context import ReportContext
from whale_ray.sweep.report.page import _environment
from whale_ray.sweep.report.plots.curves import plot_learning
from whale_ray.sweep.report.plots.objective_plots import plot_effects
from whale_ray.sweep.report.tables.leaderboard_table import build_leaderboard
from whale_ray.sweep.run_folder.records import Record, write_result
from whale_ray.sweep.trials.scoring import scoring_of

SWEEP = """
name: many
model: {encoder: tiny, embedding_size: 8, weights: random}
loss: {name: arcface}
train: {learning_rate: {low: 1.0e-5, high: 1.0e-1, log: true}, schedule: constant, epochs: [1, 2, 3, 4]}
search: {strategy: random, trials: 200}
"""


class OpenedFiles:
    """Counts the files below a folder that this process opens; audit hooks cannot be removed."""

    def __init__(self) -> None:
        self._below, self.count = "", 0
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._below and event == "open" and str(arguments[0]).startswith(self._below):
            self.count += 1

    @contextmanager
    def counted(self, folder: Path) -> Iterator[None]:
        self._below, self.count = str(folder), 0
        yield
        self._below = ""


def end_trial(store: TrialStore, trial: str, place: int) -> None:
    scores = {"recall@1": place % 7 / 7, "map@5": 0.5, "vote": "nearest", "temperature": 0.05, "flip": "none"}
    folder = store.folder / "trials" / trial
    write_result(
        folder, {"status": "finished", "error": "", "scored_with": scoring_of(store.sweep).written(), **scores}
    )
    store.outcomes.settle(trial, status="pruned")


@pytest.mark.integration
def test_the_200th_trial_opens_as_many_files_as_the_50th(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "many.yaml").write_text(SWEEP)
    store = open_trial_store(load_sweep(tmp_path / "many.yaml"), tmp_path / "many", data_fingerprint="0123456789abcdef")
    listings: list[int] = []
    get_trials = optuna.Study.get_trials
    monkeypatch.setattr(optuna.Study, "get_trials", lambda *one, **more: listings.append(1) or get_trials(*one, **more))
    files, opened = OpenedFiles(), {}
    for place, trial in enumerate(store.queue.trials()):
        assert trial is not None
        if place in (50, 200):
            listings.clear()
            with files.counted(store.folder):
                end_trial(store, trial, place)
            opened[place] = files.count
            assert listings == [], "the study is asked for one trial, not for all"
        else:
            end_trial(store, trial, place)
    assert opened[200] <= opened[50]
    store.outcomes.catch_up()
    assert len(pd.read_csv(store.folder / "leaderboard.csv")) == 201


def test_a_large_table_is_written_at_most_2_percent_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    pace = WritingPace()
    assert pace.is_due(2000), "never written"
    with pace.measured():
        now += 0.5
    due = {}
    for now in (100.5, 124.9, 125.1):
        due[now] = pace.is_due(2000)
        assert pace.is_due(100), "a small table is always written"
    assert due == {100.5: False, 124.9: False, 125.1: True}


def test_shares_of_the_variance_come_from_at_most_200_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def record_size(axis: Axis, points: list[dict[str, Any]], scores: Any, axes: Any) -> float:
        sizes.append(len(points))
        return 0.5

    monkeypatch.setattr(fanova, "_fanova", record_size)
    axes = [Axis("train.affine", "float", low=0.0, high=1.0), Axis("loss.name", values=("a", "b"))]
    points = [{"train.affine": place / 999, "loss.name": "ab"[place % 2]} for place in range(1000)]
    shares = fanova.explain(points, pd.Series(range(1000), dtype=float).to_numpy(), axes)
    assert {share.among for share in shares} == {200}
    assert set(sizes) == {200}


@pytest.fixture
def scored(tmp_path: Path) -> list[Record]:
    """Three trials that answered the same ten queries, the last one best."""
    records = []
    for place, name in enumerate(("a", "b", "c")):
        (tmp_path / name).mkdir()
        queries_of(right=5 + 2 * place).to_parquet(tmp_path / name / "queries.parquet")
        records.append(Record(name, tmp_path / name, "trial", {}, {}, "", {"status": "finished", "recall@1": 1.0}))
    return records


def queries_of(*, right: int) -> pd.DataFrame:
    """Return ten queries, the first of which are answered right."""
    names = {"individual": [f"w_{row % 5}" for row in range(10)], "cluster": [f"w_{row % 5}" for row in range(10)]}
    ranks = [1 if row < right else 2 for row in range(10)]
    images = [f"{row}.jpg" for row in range(10)]
    folds = {"image": images, "fold": [row % 5 for row in range(10)], "known": True}
    return pd.DataFrame({**folds, **names, "rank": ranks, "image_rank": ranks})


def test_the_queries_of_each_trial_are_read_once_for_all_comparisons(
    scored: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = pd.read_parquet
    monkeypatch.setattr(pd, "read_parquet", lambda path: read.append(path.parent.name) or original(path))
    for _ in range(2):
        assert of_trials(scored, "recall@1")[0] == scored
        assert [ranked[0].trial for ranked in rank_by_fold(scored, "recall@1")] == ["c"] * 5
    assert sorted(read) == ["a", "b", "c"]
    chosen = chosen_by_others(scored, "recall@1")
    assert (chosen["rank"] == 1).sum() == 9
    assert sorted(chosen["image"]) == sorted(queries_of(right=0)["image"])
    assert set(read[3:]) == {"c"}, "all columns of the chosen trials only"


def test_trials_with_the_same_queries_share_all_but_their_scores(scored: list[Record]) -> None:
    first, *others = (query_scores(record, "recall@1") for record in scored)
    for other in others:
        assert other.names is first.names
        assert other.clusters is first.clusters
        assert other.folds is first.folds
        assert other.scores is not first.scores


def test_queries_that_were_scored_again_are_read_again(scored: list[Record]) -> None:
    before = [query_scores(record, "recall@1").scores.mean() for record in scored]
    with replaced_atomically(scored[0].folder / "queries.parquet") as draft:
        queries_of(right=10).to_parquet(draft)
    after = [query_scores(record, "recall@1").scores.mean() for record in scored]
    assert (before, after) == ([0.5, 0.7, 0.9], [1.0, 0.7, 0.9])
    assert [ranked[0].trial for ranked in rank_by_fold(scored, "recall@1")] == ["a"] * 5


def finished_records(folder: Path, count: int) -> list[Record]:
    return [
        Record(
            f"{place:08x}",
            folder,
            "trial",
            {"train.affine": place / count, "loss.name": "ab"[place % 2]},
            {"train": {"epochs": 1}, "loss": {"name": "arcface"}},
            "",
            {"status": "finished" if place < count - 2 else "failed", "recall@1": 1 - place / count, "error": ""},
        )
        for place in range(count)
    ]


@pytest.mark.integration
def test_plots_of_many_trials_draw_a_part_and_say_so(tmp_path: Path) -> None:
    pd.DataFrame({"epoch": [1, 2], "recall@1": [0.1, 0.2], "loss": [2.0, 1.0]}).to_csv(tmp_path / "epochs.csv")
    records = finished_records(tmp_path, 2000)
    axes = [Axis("train.affine", "float", low=0.0, high=1.0), Axis("loss.name", values=("a", "b"))]
    scatter, rows = plot_effects(records, axes, "recall@1")
    assert "500 of 1998 dots are drawn" in scatter.note
    assert "500 of 1998 dots are drawn" in rows.note
    assert rows.svg.count("n = 999") == 2, "mean and count are of all trials"
    assert rows.svg.count('class="mean"') == 2
    learning = plot_learning(records, {}, "recall@1")
    assert [plot.note for plot in learning] == ["Thin lines: 300 of the other trials."] * 2
    assert sum(len(plot.svg) for plot in (scatter, rows, *learning)) < 500_000
    small, _ = plot_effects(records[:100], axes, "recall@1")
    assert "drawn" not in small.note


def test_the_leaderboard_of_the_page_has_the_best_500_trials_and_those_that_failed(tmp_path: Path) -> None:
    records = finished_records(tmp_path, 2000)
    (tmp_path / "many.yaml").write_text(SWEEP)
    page = ReportContext(tmp_path, load_sweep(tmp_path / "many.yaml"), tuple(records), live=False)
    page.__dict__["comparison"] = None
    section = build_leaderboard(page)
    assert [row.rank for row in section.rows] == [*range(1, 501), 1999, 2000]
    assert section.hidden == 1498
    text = _environment().get_template("leaderboard.html.j2").render(vars(section), page=page)
    assert text.index("The table has 502 of 2000 trials") < text.index("<table")
    assert build_leaderboard(ReportContext(tmp_path, page.sweep, tuple(records[:300]), live=False)).hidden == 0
