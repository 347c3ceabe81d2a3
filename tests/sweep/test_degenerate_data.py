"""Data without a meaningful score: the sweep runs or is refused, and gives the reason instead of a number."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from whale_ray.errors import DataError
from whale_ray.sweep.config.sweep_spec import load_sweep
from whale_ray.sweep.execution.driver import run_sweep

pytestmark = pytest.mark.integration

SWEEP = """
name: poor
data: {root: ROOT, image_size: 32x64, val_fraction: 0.4, group_column: GROUP}
model: {encoder: tiny, embedding_size: 8, weights: random}
loss: {name: LOSS}
train: {epochs: 1, batch_size: 8}
retrieval: {vote: [nearest, softmax], neighbours: [1, 5]}
search: {strategy: grid, objective: OBJECTIVE}
bundle: {examples: 2, runtime: torch}
"""
UNKNOWN = "new_whale"


@dataclass
class Outcome:
    page: str
    board: pd.DataFrame
    results: dict[str, dict[str, Any]]
    code: int

    @property
    def reasons(self) -> str:
        return " ".join(str(result.get("reason")) for result in self.results.values())


Sweeping = Callable[..., Outcome]


@pytest.fixture
def sweeping(photographs: Path, tmp_path: Path) -> Sweeping:
    """Run a sweep of one trial on some of the drawn photographs with other labels."""

    def sweep(table: pd.DataFrame, *, objective: str = "recall@1", loss: str = "arcface") -> Outcome:
        root = tmp_path / "poor"
        (root / "train").mkdir(parents=True)
        for image in table["Image"]:
            shutil.copy(photographs / "train" / image, root / "train" / image)
        table.to_csv(root / "train.csv", index=False)
        group = "Group" if "Group" in table else "null"
        words = {"ROOT": str(root), "GROUP": group, "OBJECTIVE": objective, "LOSS": loss}
        text = SWEEP
        for word, value in words.items():
            text = text.replace(word, value)
        (tmp_path / "poor.yaml").write_text(text)
        done = run_sweep(load_sweep(tmp_path / "poor.yaml"), runs=tmp_path / "runs", in_process=True)
        results = {path.parent.name: json.loads(path.read_text()) for path in done.folder.glob("trials/*/result.json")}
        board = pd.read_csv(done.folder / "leaderboard.csv")
        return Outcome(done.report.read_text(), board, results, done.exit_code)

    return sweep


@pytest.fixture
def drawn(photographs: Path) -> pd.DataFrame:
    return pd.read_csv(photographs / "train.csv")[["Image", "Id"]]


def named(table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Return the first photographs of the table with these labels."""
    return table.head(len(names)).assign(Id=names)


def test_no_known_query_in_validation(sweeping: Sweeping, drawn: pd.DataFrame) -> None:
    names = [*np.repeat([f"w_{place}" for place in range(6)], 3), *[UNKNOWN] * 10]
    table = named(drawn, names)
    table["Group"] = [name if name != UNKNOWN else f"alone {place}" for place, name in enumerate(names)]
    found = sweeping(table)
    assert "no known query: no validation photograph is of an individual with a gallery image" in found.reasons
    assert found.board["recall@1"].isna().all()
    assert found.board["map@5"].notna().all()
    assert "no known query" in found.page
    assert "There is no figure for recall@1: no known query" in found.page
    assert not re.search(r"\bnan\b", found.page.partition("<script>")[0])
    assert found.code == 0


def test_one_individual_only(sweeping: Sweeping, drawn: pd.DataFrame) -> None:
    found = sweeping(named(drawn, [*["w_only"] * 10, *[UNKNOWN] * 8]))
    assert "the gallery holds one individual only" in found.page
    assert found.board["recall@1"].isna().all(), "every answer names it: a recall of 1 says nothing"
    assert found.board["map@5"].notna().all()
    assert "There is no figure for recall@1:" in found.page


def test_every_photograph_unknown_is_refused_before_anything_starts(sweeping: Sweeping, drawn: pd.DataFrame) -> None:
    with pytest.raises(DataError, match="individual"):
        sweeping(named(drawn, [UNKNOWN] * 12))


def test_no_unknown_photograph(sweeping: Sweeping, drawn: pd.DataFrame) -> None:
    found = sweeping(named(drawn, list(np.repeat([f"w_{place}" for place in range(8)], 5))))
    result = next(result for trial, result in found.results.items() if not trial.startswith("baseline"))
    assert result["recall@1"] is not None
    assert (result["threshold"] is None) == ("no unknown query" in found.page)


def test_an_interval_from_three_queries(sweeping: Sweeping, drawn: pd.DataFrame) -> None:
    found = sweeping(named(drawn, [*np.repeat(["w_a", "w_b", "w_c"], 2), *[UNKNOWN] * 12]))
    for result in found.results.values():
        assert result["known_queries"] == 3
        assert result["recall@1"] is not None
        assert result["recall@1_low"] is None
    assert "an interval needs 4" in found.page
    assert "The best trial cannot be determined" in found.page
    assert "not told apart" not in found.page.replace("<dt>", "")
    importance = found.page[found.page.index('id="axes"') :]
    assert "beyond noise</strong>" not in importance
