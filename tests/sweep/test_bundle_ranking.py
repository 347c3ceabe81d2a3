"""Query expansion, re-ranking and classifier: a bundle ranks as its trial was scored."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from whale_ray.data.caches.cache_folder import pixel_cache
from whale_ray.errors import BundleError, InputError
from whale_ray.inference.bundle import read_bundle
from whale_ray.inference.predictor import Bundle
from whale_ray.learning.losses.proxy_extraction import PROXY_LOSSES
from whale_ray.retrieval.evaluation.calibration import Calibration, LogisticModel
from whale_ray.retrieval.evaluation.encounters.encounter_calibration import EncounterCalibration
from whale_ray.retrieval.search.gallery_index import combine_views, normalize_rows
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting
from whale_ray.sweep.analysis.rescoring import rescore_for_good, score_again
from whale_ray.sweep.execution.export_bundle import make_bundle
from whale_ray.sweep.planning.dataset import Dataset, open_dataset
from whale_ray.sweep.planning.trial_points import first_settings, geometries
from whale_ray.sweep.run_folder.leaderboard import finished_trials
from whale_ray.sweep.run_folder.records import Record, read_record
from whale_ray.sweep.trials.embeddings_io import read_embeddings, read_proxies
from whale_ray.sweep.trials.scoring import Scoring

if TYPE_CHECKING:
    from whale_ray.sweep.execution.driver import SweepResult

pytestmark = pytest.mark.integration

RERANK: dict[str, Any] = {"rerank": "k_reciprocal", "rerank_k1": 8, "rerank_k2": 3, "rerank_lambda": 0.3}
SETTINGS = [
    RetrievalSetting(expand_query=2),
    RetrievalSetting("softmax", 5, flip="average", augment_gallery=2),
    RetrievalSetting("centroid", expand_query=1, augment_gallery=1, whiten="pca", whitened_size=8),
    RetrievalSetting(**RERANK),
    RetrievalSetting(classifier_weight=0.4),
    RetrievalSetting(flip="average", whiten="pca", whitened_size=8, classifier_weight=0.4),
    RetrievalSetting("majority", 3, expand_query=1, augment_gallery=1, classifier_weight=0.3, **RERANK),
]


@pytest.fixture(scope="module")
def dataset(write_sweep: Any) -> Dataset:
    sweep = write_sweep()
    settings = first_settings(sweep)
    return open_dataset(settings["data"], settings["split"], geometry=geometries(sweep)[0], cache=pixel_cache())


@pytest.fixture
def record(finished: SweepResult, tmp_path: Path) -> Record:
    trial = next(one for one in finished_trials(finished.table) if not one.startswith("baseline"))
    return read_record(shutil.copytree(finished.folder / "trials" / trial, tmp_path / "trials" / trial))


def scored(record: Record, setting: RetrievalSetting) -> Record:
    """Return the trial, scored with this retrieval setting only."""
    rescore_for_good(record, Scoring((setting,), "recall@1"))
    return read_record(record.folder)


def on_training_photographs(bundle: Bundle, dataset: Dataset) -> Bundle:
    """Return the bundle with the gallery of its scores, the training part."""
    parts = dataset.table.set_index("image")["part"]
    train = (parts[bundle.contents.table["image"]] == "train").to_numpy()
    table = bundle.contents.table[train].reset_index(drop=True)
    return Bundle(dataclasses.replace(bundle.contents, gallery=bundle.contents.gallery[train], table=table))


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_the_bundle_answers_as_the_trial_was_scored(
    record: Record, dataset: Dataset, photographs: Path, tmp_path: Path, setting: RetrievalSetting
) -> None:
    record = scored(record, setting)
    bundle = Bundle.load(make_bundle(record, dataset, run=tmp_path, examples=0, thumbnails=False))
    assert bundle.setting == setting
    assert bundle.threshold == record.result["threshold"]
    bundle = on_training_photographs(bundle, dataset)
    queries = pd.read_parquet(record.folder / "queries.parquet")
    answers = bundle.identify([photographs / "train" / image for image in queries["image"]], top=50)
    same = [answer.candidates[0].individual for answer in answers] == queries["nearest_individual"]
    assert same.sum() >= len(queries) - 2, "an embedding may differ in its last digits, and turn a tie"
    assert queries["known"].sum() > 10
    for answer, query, is_same in zip(answers, queries.to_dict("records"), same, strict=True):
        if not is_same:
            continue
        assert answer.candidates[0].score == pytest.approx(query["cosine"], abs=0.02)
        assert answer.candidates[0].image == query["nearest_image"]
        ranked = [candidate.individual for candidate in answer.candidates]
        if query["known"]:
            assert abs(ranked.index(query["individual"]) + 1 - query["rank"]) <= 1


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_from_equal_vectors_the_ranking_is_equal_to_the_last_place(
    record: Record, dataset: Dataset, tmp_path: Path, setting: RetrievalSetting
) -> None:
    record = scored(record, setting)
    bundle = Bundle.load(make_bundle(record, dataset, run=tmp_path, examples=0, thumbnails=False))
    gallery = {image: row for row, image in enumerate(bundle.images)}
    queries = pd.read_parquet(record.folder / "queries.parquet")
    asked = queries[queries["image"].isin(gallery)]
    vectors = normalize_rows(bundle.contents.gallery[[gallery[image] for image in asked["image"]]])
    answers = on_training_photographs(bundle, dataset).rank(vectors, top=50)
    assert len(answers) > 10
    for answer, query in zip(answers, asked.to_dict("records"), strict=True):
        ranked = [candidate.individual for candidate in answer.candidates]
        assert ranked.index(query["individual"]) + 1 == query["rank"]
        assert answer.candidates[0].score == pytest.approx(query["cosine"], abs=2e-6)
        assert answer.candidates[0].image == query["nearest_image"]


def test_the_distance_is_plain_and_the_threshold_applies_to_the_score(
    record: Record, dataset: Dataset, photographs: Path, tmp_path: Path
) -> None:
    record = scored(record, SETTINGS[-1])
    record = dataclasses.replace(record, result=record.result | {"decision": None})
    bundle = Bundle.load(make_bundle(record, dataset, run=tmp_path, examples=0, thumbnails=False))
    photograph = photographs / "train" / str(dataset.table["image"].iloc[0])
    (answer,) = bundle.identify([photograph], top=50)
    cosines = bundle.embed([bundle.prepare(photograph)])[0] @ bundle.contents.gallery.astype(np.float32).T
    nearest = pd.Series(1.0 - cosines).groupby(bundle.individuals).min()
    for candidate in answer.candidates:
        assert candidate.distance == pytest.approx(nearest[candidate.individual], abs=1e-3)
        assert bundle.individuals[candidate.row] == candidate.individual
    score = answer.candidates[0].score
    assert score != pytest.approx(1 - answer.candidates[0].distance, abs=1e-3)
    for threshold, decision in ((score - 1e-6, "known"), (score + 1e-6, "new")):
        other = Bundle(dataclasses.replace(bundle.contents, manifest=bundle.card | {"threshold": threshold}))
        (identified,) = other.identify([photograph], top=3)
        assert identified.new_individual.decision == decision
        labels = identified.labels(unknown_label="new_whale", threshold=threshold)
        assert (labels[0] == "new_whale") == (decision == "new")
        assert other.new_distance is None
    assert "here no plain cosine, is below" in (tmp_path / "best" / "README.md").read_text()


def test_a_trial_keeps_the_proxies_of_its_training_individuals(finished: SweepResult, dataset: Dataset) -> None:
    trained = dataset.table[(dataset.table["part"] == "train") & (dataset.table["individual"] != "new_whale")]
    losses = set()
    for trial in finished_trials(finished.table):
        record = read_record(finished.folder / "trials" / trial)
        proxies = read_proxies(record.folder)
        if record.kind == "baseline":
            assert proxies == {}
            continue
        assert list(proxies) == [0]
        losses.add(record.settings["loss"]["name"])
        learned = proxies[0]
        assert learned.individuals.tolist() == sorted(set(trained["individual"]))
        np.testing.assert_allclose(np.linalg.norm(learned.vectors.astype(float), axis=1), 1.0, atol=1e-2)
        views, table = read_embeddings(record.folder)
        centre = combine_views(views, "none").astype(float)
        own = [
            (centre[((table["individual"] == name) & (table["part"] == "train")).to_numpy()] @ learned.vectors.T).mean(
                0
            )
            for name in learned.individuals
        ]
        assert np.trace(own) / len(own) > np.mean(own), "photographs must be nearer to their own proxy than to others"
    assert losses == {"arcface", "proxy_anchor"} <= set(PROXY_LOSSES)


def test_a_bundle_has_classifier_proxies_only_if_its_setting_uses_them(
    record: Record, dataset: Dataset, tmp_path: Path
) -> None:
    plain = make_bundle(scored(record, RetrievalSetting()), dataset, run=tmp_path / "a", examples=0, thumbnails=False)
    assert not list(plain.glob("proxies.*"))
    mixed = make_bundle(scored(record, SETTINGS[4]), dataset, run=tmp_path / "b", examples=0, thumbnails=False)
    contents = read_bundle(mixed)
    assert {"proxies.npy", "proxies.csv"} <= set(contents.manifest["files"])
    assert contents.proxies is not None
    assert len(contents.proxies) == len(set(contents.proxies.individuals)) > 1
    (mixed / "proxies.npy").write_bytes(b"")
    with pytest.raises(BundleError, match=r"proxies\.npy is damaged"):
        Bundle.load(mixed)


def test_weights_of_a_classifier_are_scored_again_without_training(finished: SweepResult, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished.folder, tmp_path / "little", symlinks=True))
    score_again(run, ["vote=[nearest, centroid]", "flip=none", "classifier_weight=[0, 0.5]"])
    every = pd.read_csv(run / "rescored" / "retrieval.csv")
    for trial, rows in every.groupby("trial"):
        baseline = str(trial).startswith("baseline")
        assert rows.loc[rows["vote"] == "nearest", "classifier_weight"].tolist() == ([0.0] if baseline else [0.0, 0.5])
        assert rows.loc[rows["vote"] == "centroid", "classifier_weight"].tolist() == [0.0]


def test_a_trial_without_proxies_is_scored_but_refused_for_a_classifier(record: Record) -> None:
    plain = RetrievalSetting("softmax", 5)
    before = scored(record, plain).result
    path = record.folder / "embeddings.npz"
    with np.load(path) as stored:
        older = {name: stored[name] for name in stored if not name.startswith("prox")}
    np.savez(path, **older)
    assert scored(record, plain).result == before
    with pytest.raises(InputError, match=rf"trial {record.trial} kept none: an earlier version.*classifier_weight: 0"):
        scored(record, RetrievalSetting(classifier_weight=0.5))


def test_decision_and_probability_of_a_bundle_agree(finished: SweepResult, photographs: Path) -> None:
    bundle = Bundle.load(finished.folder / "best")
    assert bundle.decision is not None
    assert bundle.decision.rule == "balanced"
    answers = bundle.identify(sorted((photographs / "test").iterdir()))
    said = [(answer.new_individual.decision, answer.new_individual.probability or 0.0) for answer in answers]
    assert {decision == "new" for decision, _ in said} <= {True, False}
    assert all((probability >= 0.5) == (decision == "new") for decision, probability in said)
    unshifted = Bundle(dataclasses.replace(bundle.contents, manifest=bundle.card | {"decision": None}))
    before = [
        one.new_individual.probability or 0.0 for one in unshifted.identify(sorted((photographs / "test").iterdir()))
    ]
    assert np.allclose(bundle.decision.of_new(np.array(before)), [probability for _, probability in said])


def test_a_bundle_answers_encounters_as_the_trial_was_scored(record: Record, dataset: Dataset, tmp_path: Path) -> None:
    fitted = EncounterCalibration(
        Calibration(LogisticModel(-1.0, 2.0, 3.0, 0.5), LogisticModel(1.0, -3.0, 0.0, 0.0)), 0.1, 0.2, 0.4
    )
    plain = scored(record, RetrievalSetting())
    assert "encounter_calibration" in plain.result
    result = plain.result | {"encounter_calibration": fitted.written()}
    plain = dataclasses.replace(plain, result=result)
    made = make_bundle(plain, dataset, run=tmp_path / "a", examples=0, thumbnails=False)
    bundle = Bundle.load(made)
    assert bundle.encounters == fitted
    vectors = bundle.contents.gallery[:2].astype(np.float32)
    alone, several = (bundle.rank(vectors, photographs=counts) for counts in ([1, 1], [1, 3]))
    assert several[0] == alone[0]
    assert several[1].new_individual.probability != alone[1].new_individual.probability
    older = dataclasses.replace(bundle.contents, manifest=bundle.card | {"encounter_calibration": None})
    assert Bundle(older).rank(vectors, photographs=[1, 3])[1].new_individual.probability is None
