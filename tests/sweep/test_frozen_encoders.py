"""Sweeps of frozen encoders with whitening, from the command to the answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from whale_ray.inference.predictor import Bundle
from whale_ray.sweep.config.sweep_spec import load_sweep
from whale_ray.sweep.execution.driver import SweepResult, run_sweep

pytestmark = pytest.mark.integration

FROZEN = """
name: frozen
data: {root: ROOT, image_size: 32x64, val_fraction: 0.4}
model: {encoder: tiny, neck: none, embedding_size: null, pool: [avg, gem]}
loss: {name: none}
train: {epochs: 0}
retrieval: {vote: [nearest, softmax], neighbours: 5, flip: [none, average], whiten: learned, whitened_size: [8, 16]}
search: {strategy: grid, objective: map@5}
bundle: {examples: 3, runtime: torch}
"""


@pytest.fixture(scope="module")
def frozen(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    folder = tmp_path_factory.mktemp("frozen")
    (folder / "frozen.yaml").write_text(FROZEN.replace("ROOT", str(photographs)))
    return run_sweep(load_sweep(folder / "frozen.yaml"), runs=folder / "runs", in_process=True)


def results(run: Path) -> dict[str, dict[str, Any]]:
    return {path.parent.name: json.loads(path.read_text()) for path in run.glob("trials/*/result.json")}


def test_frozen_trials_are_scored_without_an_epoch(frozen: SweepResult) -> None:
    board = pd.read_csv(frozen.folder / "leaderboard.csv")
    assert board["status"].tolist() == ["finished"] * 3
    assert board["epochs"].tolist() == [0, 0, 0]
    assert board["map@5"].notna().all()
    assert "Nothing was trained" in (frozen.folder / "report.html").read_text()


def test_baselines_are_pretrained_encoders_without_whitening(frozen: SweepResult) -> None:
    for trial, result in results(frozen.folder).items():
        assert (result["whiten"] == "none") == trial.startswith("baseline-"), trial
        table = pd.read_csv(frozen.folder / "trials" / trial / "retrieval.csv")
        assert set(table["whiten"]) == {result["whiten"]}


def test_the_bundle_whitens_as_the_sweep_did(frozen: SweepResult, photographs: Path) -> None:
    assert frozen.bundle is not None
    bundle = Bundle.load(frozen.bundle)
    size = bundle.card["retrieval"]["whitened_size"]
    assert bundle.card["retrieval"]["whiten"] == "learned"
    assert bundle.contents.gallery.shape[1] == bundle.card["embedding_size"] == size
    rows = range(0, len(bundle.images), 5)
    found = bundle.embed([bundle.prepare(photographs / "train" / bundle.images[row]) for row in rows])
    assert (1 - np.sum(found * bundle.contents.gallery[list(rows)].astype(np.float32), axis=1)).max() < 5e-3
    (answer,) = bundle.identify([photographs / "train" / bundle.images[0]])
    assert answer.candidates[0].image == bundle.images[0]
    assert "whiten learned" in (frozen.bundle / "README.md").read_text()


def test_the_same_command_does_nothing_more(frozen: SweepResult) -> None:
    again = run_sweep(load_sweep(frozen.folder / "sweep.yaml"), runs=frozen.folder.parent, in_process=True)
    assert again.bundle is not None
    assert again.bundle.resolve() == (frozen.folder / "best").resolve()


HEADS = """
name: heads
data: {root: ROOT, image_size: 32x64}
split: {kfold: 2}
model: {encoder: tiny, embedding_size: [8, 16], pool: [avg, gem], freeze: trunk}
loss: {name: arcface}
train: {epochs: 2, batch_size: 16, affine: 0, colour: 0, flip: new_individual}
search: {strategy: grid}
bundle: {examples: 3, runtime: torch}
"""


def test_heads_on_a_frozen_trunk_learn_from_features_that_are_computed_once(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "heads.yaml").write_text(HEADS.replace("ROOT", str(photographs)))
    monkeypatch.setenv("WHALE_RAY_CACHE", str(tmp_path / "cache"))  # other processes write into the shared one
    features = tmp_path / "cache" / "features"
    before = set(features.glob("*.npy"))
    result = run_sweep(load_sweep(tmp_path / "heads.yaml"), runs=tmp_path / "runs", in_process=True)
    assert result.exit_code == 0
    assert len(result.table) == 5
    # two views and two poolings; the baseline pools as the first trials do
    assert len(set(features.glob("*.npy")) - before) == 4
    assert len(list(features.glob("*.lock"))) == 2  # one pass for each view
    assert result.bundle is not None
    bundle = Bundle.load(result.bundle)
    (answer,) = bundle.identify([photographs / "train" / bundle.images[0]])
    assert answer.candidates[0].image == bundle.images[0]
