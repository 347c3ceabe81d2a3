"""Sweeps on k folds, held-out individuals and whole encounters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from whale_ray.errors import InputError
from whale_ray.inference.predictor import Bundle
from whale_ray.sweep.config.sweep_spec import Sweep, load_sweep
from whale_ray.sweep.execution.driver import SweepResult, run_sweep
from whale_ray.sweep.planning.dataset import Dataset, open_dataset
from whale_ray.sweep.planning.trial_points import first_settings, geometries
from whale_ray.sweep.report.example_matches import find_examples
from whale_ray.sweep.report.thumbnails import Photographs
from whale_ray.sweep.run_folder.records import read_record
from whale_ray.sweep.trials.embeddings_io import read_embeddings
from whale_ray.sweep.trials.scoring import score_trial, scoring_of

pytestmark = pytest.mark.integration

FOLDED = """
name: folded
data: {root: ROOT, image_size: 32x64}
split: {kfold: 3}
model: {encoder: tiny, embedding_size: 16, weights: random}
loss: {name: arcface}
train: {epochs: 2, batch_size: 16, learning_rate: 3.0e-3}
retrieval: {whiten: [none, pca], whitened_size: 8}
search: {strategy: grid, objective: map@5}
bundle: {examples: 3}
"""


def sweep_of(folder: Path, photographs: Path, *options: str) -> Sweep:
    path = folder / "folded.yaml"
    path.write_text(FOLDED.replace("ROOT", str(photographs)))
    return load_sweep(path, options)


def dataset_of(sweep: Sweep, cache: Path) -> Dataset:
    settings = first_settings(sweep)
    return open_dataset(settings["data"], settings["split"], geometry=geometries(sweep)[0], cache=cache / "pixels")


@pytest.fixture(scope="module")
def folded(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    folder = tmp_path_factory.mktemp("folded")
    return run_sweep(sweep_of(folder, photographs), runs=folder / "runs", in_process=True)


def trial_of(run: Path) -> Path:
    (trial,) = (path.parent for path in run.glob("trials/*/result.json") if not path.parent.name.startswith("base"))
    return trial


def test_every_eligible_photograph_validates_once_against_a_gallery_without_it(folded: SweepResult) -> None:
    split = pd.read_csv(folded.folder / "split.csv")
    queries = pd.read_parquet(trial_of(folded.folder) / "queries.parquet")
    assert sorted(queries["image"]) == sorted(split.loc[split["fold"] >= 0, "Image"])
    fold_of = dict(zip(split["Image"], split["fold"], strict=True))
    found = queries[queries["nearest_image"] != ""]
    assert (found["nearest_image"].map(fold_of) != found["image"].map(fold_of)).all()


def test_a_trial_trains_each_fold_and_keeps_only_its_embeddings(folded: SweepResult) -> None:
    trial = trial_of(folded.folder)
    epochs = pd.read_csv(trial / "epochs.csv")
    assert epochs["epoch"].tolist() == [1, 2, 3, 4, 5, 6]
    assert epochs["fold"].tolist() == [0, 0, 1, 1, 2, 2]
    assert json.loads((trial / "result.json").read_text())["epochs"] == 6
    assert not (trial / "folds").exists()
    views, table = read_embeddings(trial)
    assert np.array_equal(np.unique(table["split"]), [0, 1, 2])
    assert len(views["plain"]) == len(table) == 3 * len(pd.read_csv(folded.folder / "split.csv"))


def test_the_bundle_is_trained_once_more_on_every_photograph(folded: SweepResult, photographs: Path) -> None:
    assert folded.bundle is not None
    bundle = Bundle.load(folded.bundle)
    labels = pd.read_csv(photographs / "train.csv")
    assert bundle.card["retrained_on_all"]
    assert sorted(bundle.images) == sorted(labels.loc[labels["Id"] != "new_whale", "Image"])
    assert bundle.card["scores"]["map@5"] == pd.read_csv(folded.folder / "leaderboard.csv")["map@5"][0]


def test_the_report_of_a_sweep_in_folds_has_its_curves_and_examples(folded: SweepResult) -> None:
    text = (folded.folder / "report.html").read_text()
    assert "<svg" in text
    assert "data:image/jpeg" in text
    assert "Each of 3 folds is validated by a model that is trained on the others" in text


def test_a_query_is_shown_beside_photographs_of_its_own_splits_gallery(folded: SweepResult, photographs: Path) -> None:
    fold_of = pd.read_csv(folded.folder / "split.csv").set_index("Image")["fold"]
    found = find_examples(read_record(trial_of(folded.folder)), Photographs(photographs / "train"))
    shown = [*found.mistakes, *found.right]
    assert shown
    for example in shown:
        for answer in example.answers:
            assert fold_of[answer.image] != fold_of[example.query.image]


def test_the_runtime_is_chosen_by_queries_of_one_split(folded: SweepResult) -> None:
    assert folded.bundle is not None
    assert "no known photograph" not in json.dumps(Bundle.load(folded.bundle).card["runtime"])


def test_a_fold_that_was_trained_is_not_trained_again(photographs: Path, cache: Path, tmp_path: Path) -> None:
    from whale_ray.sweep.run_folder.records import write_record
    from whale_ray.sweep.trials.trackers.tracker import Tracking
    from whale_ray.sweep.trials.trial_run import SweepContext, TrialRun

    sweep = sweep_of(tmp_path, photographs)
    tracking = Tracking(sweep="folded", prefix="folded")
    job = SweepContext(tmp_path, tmp_path, dataset_of(sweep, cache), scoring_of(sweep), 1, 0.0, tracking)
    results = []
    for trial, stop in (("whole", None), ("cut", 3)):
        write_record(
            job.trial_folder(trial), kind="trial", point={}, settings=first_settings(sweep), data_fingerprint=""
        )
        seen: list[int] = []

        def report(figures: dict[str, Any], seen: list[int] = seen, stop: int | None = stop) -> None:
            seen.append(figures["epoch"])
            if figures["epoch"] == stop and len(seen) == stop:
                raise KeyboardInterrupt

        if stop:
            with pytest.raises(KeyboardInterrupt):
                TrialRun(trial, job).run(report)
        results.append(TrialRun(trial, job).run(report))
        assert seen == [1, 2, 3, 4, 5, 6]
    names = [name for name in results[0] if name.startswith(("recall", "map"))]
    assert [results[0][name] for name in names] == [results[1][name] for name in names]


def test_held_out_individuals_are_new_to_the_gallery_and_set_the_threshold(
    photographs: Path, cache: Path, tmp_path: Path
) -> None:
    sweep = sweep_of(tmp_path, photographs, "split={open_set: 0.4}")
    table = dataset_of(sweep, cache).scored()
    table = table[table["individual"] != "new_whale"]
    whole = table.groupby("individual")["part"].agg(lambda part: (part == "val").all())
    assert whole.sum() == 2
    vectors = np.random.default_rng(0).standard_normal((len(table), 8)).astype(np.float16)
    views = {"plain": vectors, "flip": vectors}
    found = score_trial(views, table, scoring=scoring_of(sweep), settings=first_settings(sweep), run=tmp_path)
    held = found.queries["individual"].isin(whole[whole].index)
    assert (found.queries["new"] == held).all()
    assert found.threshold is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["split={kind: stratified, folds: 3}"], r"`split.folds` belongs to `kfold`, but the split is stratified"),
        (["search.scheduler=asha"], r"a trial of `split: kfold` has several. Leave the scheduler out"),
        (["split={kfold: 1}"], r"`split.folds` must be a whole number from 2 to 20"),
        (["split={kfold: 3, share: 0.2, kind: open_set}"], r"there is no key `split.kfold`"),
    ],
)
def test_settings_that_contradict_the_split_are_refused(
    photographs: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        sweep_of(tmp_path, photographs, *options)
